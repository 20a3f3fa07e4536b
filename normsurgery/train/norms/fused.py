"""Which output channels of a fused reader lie on which path, as runs that repeat.

[q | k | v] is one run a path; [q | k | v] head by head is the same runs over and over. So rows of
its weight are had by views and its output is put together by concatenation, where a gather by
index (and its scatter on the way back) costs more than the norm that is saved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Layout:
    """Runs of channels. parts: of each path its channels, ascending; together all of them."""

    def __init__(self, parts: Sequence[Sequence[int]]) -> None:
        size = sum(map(len, parts))
        owner = torch.empty(size, dtype=torch.long)
        for number, channels in enumerate(parts):
            owner[torch.tensor(list(channels))] = number
        self._period = _period(owner)
        self._repeats = size // self._period
        self._runs = _runs(owner[: self._period].tolist())

    def rows(self, tensor: Tensor, part: int, axis: int) -> Tensor:
        """A path's channels along the first (0) or last (-1) axis, in their order."""
        within = 1 if axis == 0 else -1
        split = torch.unflatten(tensor, axis, (self._repeats, self._period))
        pieces = [split.narrow(within, start, n) for owner, start, n in self._runs if owner == part]
        joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces, within)
        return joined.flatten(0, 1) if axis == 0 else joined.flatten(-2)

    def together(self, made: Sequence[Tensor]) -> Tensor:
        """The paths' outputs [.., channels of the path] as one output [.., channels]."""
        split = [torch.unflatten(one, -1, (self._repeats, -1)) for one in made]
        used = [0] * len(made)
        pieces = []
        for owner, _, count in self._runs:
            pieces.append(split[owner].narrow(-1, used[owner], count))
            used[owner] += count
        return torch.cat(pieces, -1).flatten(-2)


def _period(owner: Tensor) -> int:
    """After how many channels the pattern of owners starts again."""
    size = len(owner)
    for period in range(1, size + 1):
        if size % period == 0 and bool((owner.view(-1, period) == owner[:period]).all()):
            return period
    return size


def _runs(owners: Sequence[int]) -> list[tuple[int, int, int]]:
    """(owner, start, count) of neighbours with the same owner."""
    runs: list[tuple[int, int, int]] = []
    for position, owner in enumerate(owners):
        if runs and runs[-1][0] == owner:
            runs[-1] = (owner, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((owner, position, 1))
    return runs
