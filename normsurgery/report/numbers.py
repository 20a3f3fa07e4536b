"""Numbers as people read them: SI bytes for files, binary bytes for memory, short figures."""

from __future__ import annotations

_SI = ("B", "kB", "MB", "GB", "TB", "PB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_COUNTS = ("", " K", " M", " B", " T")
ABSENT = "–"


def file_size(count: int | None) -> str:
    """Bytes on disk, in powers of 1000 as disks are sold: `324 MB`."""
    return _scaled(count, 1000, _SI)


def memory_size(count: int | None) -> str:
    """Bytes in memory, in powers of 1024 as memory is sold: `61 MiB`."""
    return _scaled(count, 1024, _BINARY)


def _scaled(count: int | None, base: int, units: tuple[str, ...]) -> str:
    if count is None:
        return ABSENT
    value, unit = float(count), 0
    while value >= base - 0.5 and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    digits = 1 if unit and value < 9.95 else 0
    return f"{value:.{digits}f} {units[unit]}"


def short_count(count: int | None) -> str:
    """Parameters or tokens: `124.4 M`."""
    if count is None:
        return ABSENT
    value, unit = float(count), 0
    while value >= 999.95 and unit < len(_COUNTS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count:,}" if unit == 0 else f"{value:.1f}{_COUNTS[unit]}"


def duration(seconds: float | None) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def figure(value: float | None) -> str:
    """Three digits at most where that is readable, else two in scientific notation."""
    if value is None:
        return ABSENT
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if value != value or size in (0.0, float("inf")):
        return str(value).removesuffix(".0")
    if size < 1e-3 or size >= 1e5:
        return f"{value:.1e}"
    return f"{value:.3g}" if size < 1000 else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """A share of one as a percentage that says 100 % only where it is exactly that."""
    if share is None:
        return ABSENT
    text = f"{100 * share:.2f}"
    if text == "100.00":
        return "100 %" if share >= 1 else "99.99 %"
    return f"{text} %"
