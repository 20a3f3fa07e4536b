"""Choosing what to drop by trying it: the walk on a sample of the text, its loss on the held-out part.

No score taken before the fit tells which cut is best after it: blocks that stand apart are replaced
far better than a run of them, and the block that is missed least may stand where nothing can take
its place. So a few promising cuts are fitted on little text and compared by what they lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normsurgery.anatomy.block_writers import BlockWriter
from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.sequential import Plan, refit_and_heal
from normsurgery.errors import UsageError


@dataclass(frozen=True)
class Trial:
    """A cut and its loss on held-out text after the walk, above the original's, in nats a token."""

    dropped: tuple[int, ...]
    added_loss: float

    def to_dict(self) -> dict[str, Any]:
        """As it stands among the scores of a document."""
        return {"blocks": list(self.dropped), "trial": self.added_loss}


def proposals(
    losses: Sequence[float | None],
    count: int,
    *,
    windows: Sequence[tuple[int, ...]] = (),
    most: int = 6,
) -> list[tuple[int, ...]]:
    """Cuts worth a trial, at most `most`, the most promising first.

    losses: per block, the loss without it (None: not to be dropped). windows: runs that other
    scores chose. Blocks that stand apart come first, by the sum of their losses; then the runs.
    """
    known = {block: loss for block, loss in enumerate(losses) if loss is not None and block > 0}
    if len(known) < count:
        raise UsageError(f"{count} blocks cannot be dropped: {len(known)} have a loss to compare")
    apart = _cheapest(known, count, most)
    room = max(1, most - len(set(windows)))
    found = dict.fromkeys([*apart[:room], *(tuple(sorted(window)) for window in windows)])
    if not found:
        found = dict.fromkeys([tuple(sorted(sorted(known, key=known.__getitem__)[:count]))])
    return list(found)[:most]


def _cheapest(known: Mapping[int, float], count: int, most: int) -> list[tuple[int, ...]]:
    """Sets of blocks no two of which touch, by the sum of their losses: a beam over the depth."""
    width = 64
    partial: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    by_size: list[list[tuple[float, tuple[int, ...]]]] = [partial, *([] for _ in range(count))]
    for block in sorted(known):
        for size in range(count, 0, -1):
            grown = [
                (total + known[block], (*blocks, block))
                for total, blocks in by_size[size - 1]
                if not blocks or blocks[-1] < block - 1
            ]
            # sets that end in different blocks are kept apart: what fits behind them differs
            by_size[size] = _best_per_end([*by_size[size], *grown], width)
    return [blocks for _, blocks in sorted(by_size[count])[:most]]


def _best_per_end(
    sets: Sequence[tuple[float, tuple[int, ...]]], width: int
) -> list[tuple[float, tuple[int, ...]]]:
    held: dict[int, list[tuple[float, tuple[int, ...]]]] = {}
    for entry in sorted(sets):
        end = held.setdefault(entry[1][-1], [])
        if len(end) < width:
            end.append(entry)
    return [entry for end in held.values() for entry in end]


def tried(
    blockwise: Blockwise,
    writers: Sequence[Sequence[BlockWriter]],
    cuts: Sequence[tuple[int, ...]],
    plan: Plan,
) -> list[Trial]:
    """Every cut, the best first. blockwise: over a sample of the text. plan: its order is ours."""
    depth = len(blockwise.stack.blocks)
    trials = []
    for cut in cuts:
        order = tuple(block for block in range(depth) if block not in cut)
        fitted = refit_and_heal(blockwise, writers, replace(plan, order=order, losses=True))
        assert fitted.losses is not None
        trials.append(Trial(tuple(cut), fitted.losses[1] - fitted.losses[0]))
    return sorted(trials, key=lambda trial: trial.added_loss)
