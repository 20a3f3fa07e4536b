"""Lists of blocks as they are typed: `0-7,zero,8-11`; what to drop: `3`, `25%`, `4,9`, `5-7`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from normsurgery.errors import UsageError
from normsurgery.surgery.arrange import Source

_HINT = "for example 0-7,zero,8-11: numbers from 0, ranges with both ends, zero"


@dataclass(frozen=True)
class Drop:
    """What to drop: so many blocks (which ones is open), or these.

    count: how many. blocks: their numbers in order, None where they are still to be chosen.
    """

    count: int
    blocks: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """As `parse_drop` reads it."""
        if self.blocks is None:
            return str(self.count)
        return ",".join(f"{block}-{block}" for block in self.blocks)

    def kept(self, depth: int) -> list[Source]:
        """The blocks that stay, in order. Raises UsageError where none are named."""
        if self.blocks is None:
            raise UsageError(f"{self.count} blocks are to be dropped, not said which", "name them")
        return [block for block in range(depth) if block not in self.blocks]


def parse_blocks(text: str, depth: int) -> list[Source]:
    """The list that `text` spells: numbers, ranges (both ends; downwards too) and `zero`.

    depth: how many blocks there are. Raises UsageError for anything else and for other numbers.
    """
    found: list[Source] = []
    for item in text.split(","):
        word = item.strip()
        found += ["zero"] if word == "zero" else _numbers(word, depth, text)
    return found


def parse_drop(text: str, depth: int) -> Drop:
    """What `--drop` spells: `N` blocks, `N%` of them (rounded down), `I,J,…` or `I-J`.

    Raises UsageError where that is none, or all, of `depth` blocks, or a block twice.
    """
    word = text.strip()
    blocks: tuple[int, ...] | None = None
    if re.fullmatch(r"[0-9]+", word):
        count = int(word)
    elif re.fullmatch(r"[0-9]+(\.[0-9]+)?%", word):
        count = math.floor(float(word[:-1]) / 100 * depth + 1e-9)
    else:
        numbers = [n for item in word.split(",") for n in _numbers(item.strip(), depth, text)]
        blocks = tuple(sorted(set(numbers)))
        count = len(blocks)
        if len(numbers) != count:
            raise UsageError(f"{text!r} names a block twice", "name each block once")
    if not 0 < count < depth:
        raise UsageError(
            f"{text!r} is {count} of {depth} blocks", f"drop at least 1 and at most {depth - 1}"
        )
    return Drop(count, blocks)


def _numbers(word: str, depth: int, text: str) -> list[int]:
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word)
    if match is None:
        what = f"{word!r} in {text!r}" if word else f"an empty place in {text!r}"
        raise UsageError(f"{what} is no block", _HINT)
    first, last = int(match[1]), int(match[2] or match[1])
    for number in (first, last):
        if number >= depth:
            raise UsageError(f"there is no block {number}", f"they are numbered 0 to {depth - 1}")
    step = 1 if first <= last else -1
    return list(range(first, last + step, step))
