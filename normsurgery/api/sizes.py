"""Sizes as people write them: 5GB, 500MiB, 1000000."""

from __future__ import annotations

import re

from normsurgery.errors import UsageError

_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def parse_size(size: int | str | None) -> int | None:
    """Bytes; None stays None. Raises UsageError for what is not a positive size."""
    if size is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if not match or unit is None or float(match.group(1)) <= 0:
        raise UsageError(f"{size} is not a size", "for example 5GB or 500MiB")
    return int(float(match.group(1)) * unit)
