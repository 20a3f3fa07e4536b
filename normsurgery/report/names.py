"""Fold the names of repeated blocks into one: `h.0.ln_1 … h.11.ln_1` → `h.{0-11}.ln_1`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_Slots = tuple[str, ...]


def folded(names: Iterable[str]) -> list[tuple[str, int]]:
    """Patterns that stand for exactly these names, each with how many it stands for.

    Names that differ in their numeric components only share a pattern wherever the numbers make a
    full product; order is that of first appearance.
    """
    groups: dict[_Slots, list[tuple[int, ...]]] = {}
    for name in dict.fromkeys(names):
        parts = name.split(".")
        shape = tuple("{}" if _is_index(part) else part for part in parts)
        groups.setdefault(shape, []).append(tuple(int(p) for p in parts if _is_index(p)))
    result = []
    for shape, indices in groups.items():
        for slots, count in _merged(indices):
            filled = iter(slots)
            result.append((".".join(next(filled) if p == "{}" else p for p in shape), count))
    return result


def _is_index(part: str) -> bool:
    """A block's number; `07` is a name, as folding it would lose its zero."""
    return part.isascii() and part.isdigit() and (part == "0" or part[0] != "0")


def _merged(indices: Sequence[tuple[int, ...]]) -> list[tuple[_Slots, int]]:
    """Fold one position after the other, the last first; rows merge where all else is equal."""
    rows: dict[tuple[int | str, ...], int] = dict.fromkeys(indices, 1)
    for position in reversed(range(len(indices[0]))):
        numbers: dict[tuple[int | str, ...], list[int]] = {}
        counts: dict[tuple[int | str, ...], int] = {}
        for slots, count in rows.items():
            others = (*slots[:position], "", *slots[position + 1 :])
            numbers.setdefault(others, []).append(int(slots[position]))
            counts[others] = counts.get(others, 0) + count
        rows = {
            (*key[:position], ranges(numbers[key]), *key[position + 1 :]): count
            for key, count in counts.items()
        }
    return [(tuple(str(slot) for slot in slots), count) for slots, count in rows.items()]


def ranges(numbers: Iterable[int]) -> str:
    """`3` for one number, `{0-3,7}` for several."""
    ordered = sorted(set(numbers))
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if len(ordered) == 1:
        return str(ordered[0])
    texts = [str(a) if a == b else f"{a}-{b}" if b > a + 1 else f"{a},{b}" for a, b in runs]
    return "{" + ",".join(texts) + "}"
