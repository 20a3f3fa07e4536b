"""Short regular expressions for many module names: `h\\.\\d+\\.ln_1` for every block's ln_1."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value", bound=Hashable)


def patterns(
    wanted: Mapping[str, Value], everything: Iterable[str], *, prefix: str
) -> dict[str, Value]:
    """Regular expressions that match exactly the wanted names among all, with their values.

    A block index becomes `\\d+` where that matches wanted names of one value only. The base
    model's prefix (`transformer.`) becomes optional, so that the same expression holds in the
    base model's own class.
    """
    names = list(everything)
    found: dict[str, Value] = {}
    for name, value in wanted.items():
        pattern = _with_prefix(re.sub(r"(?<=\\\.)\d+(?=\\\.|$)", r"\\d+", re.escape(name)), prefix)
        matched = [other for other in names if re.fullmatch(pattern, other)]
        if any(wanted.get(other, _MISSING) != value for other in matched):
            pattern = _with_prefix(re.escape(name), prefix)
        found[pattern] = value
    return found


_MISSING = object()


def _with_prefix(pattern: str, prefix: str) -> str:
    escaped = re.escape(f"{prefix}.")
    if prefix and pattern.startswith(escaped):
        return f"({escaped})?{pattern.removeprefix(escaped)}"
    return pattern
