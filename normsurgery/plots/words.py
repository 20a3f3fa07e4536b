"""Names and lists of names as pictures and their captions have them."""

from __future__ import annotations

from collections.abc import Iterable


def listed(words: Iterable[str]) -> str:
    """`a, b and c`."""
    said = list(words)
    return " and ".join([", ".join(said[:-1]), said[-1]]) if len(said) > 1 else "".join(said)


def shortened(name: str, length: int) -> str:
    """A name of at most so many letters: the middle of a longer one is an ellipsis."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[-(length - 1 - head) :]}"


def block_number(path: str) -> int | None:
    """The number of the block that a module lies in, `model.layers.3.norm` → 3."""
    return next((int(part) for part in path.split(".") if part.isdecimal()), None)


def site_in_block(path: str) -> str:
    """What a module is called in every block alike: `model.layers.3.norm` → `norm`."""
    parts = path.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return parts[-1] if at is None else ".".join(parts[at + 1 :]) or path
