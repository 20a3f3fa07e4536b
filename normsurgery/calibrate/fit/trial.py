"""Choosing what to drop by trying it: the walk on a sample of the text, and its held-out loss.

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
from normsurgery.calibrate.fit.sequential import Plan, refit_and_heal
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
    losses: Sequence[float | None], count: int, windows: Sequence[tuple[int, ...]] = ()
) -> list[tuple[int, ...]]:
    """Cuts worth a trial, the most promising first: at most count + 1 and the windows.

    losses: per block, the loss without it (None: not to be dropped). windows: runs that other
    scores chose. First come blocks that stand apart, with the least sum of losses; then, for each
    of them, the same without it (it may be one whose place nothing can take); then the runs.
    Raises UsageError where fewer than `count` blocks have a loss. Block 0 has no seam before it.
    """
    known = {block: loss for block, loss in enumerate(losses) if loss is not None and block > 0}
    if len(known) < count:
        raise UsageError(f"{count} blocks cannot be dropped: {len(known)} have a loss to compare")
    best = _cheapest(known, count)
    found = [best, *(_cheapest(_less(known, block), count) for block in best or ())]
    found += [tuple(sorted(window)) for window in windows]
    cuts = [cut for cut in dict.fromkeys(found) if cut is not None]
    return cuts or [tuple(sorted(sorted(known, key=known.__getitem__)[:count]))]


def _less(known: Mapping[int, float], block: int) -> dict[int, float]:
    return {other: loss for other, loss in known.items() if other != block}


def _cheapest(known: Mapping[int, float], count: int) -> tuple[int, ...] | None:
    """The `count` blocks, no two of which touch, with the least sum; None where there are none."""
    # by how many are chosen and which is the last: the best sum so far and its blocks
    best: list[dict[int, tuple[float, tuple[int, ...]]]] = [{} for _ in range(count + 1)]
    best[0][-2] = (0.0, ())
    for block in sorted(known):
        for size in range(count, 0, -1):
            before = [sets for last, sets in best[size - 1].items() if last < block - 1]
            if before:
                total, blocks = min(before)
                best[size][block] = (total + known[block], (*blocks, block))
    return min(best[count].values())[1] if best[count] else None


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
