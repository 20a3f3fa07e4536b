"""Cuts that are proposed, and the one that is chosen."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch

from normsurgery.calibrate.fit.sequential import Plan
from normsurgery.calibrate.fit.trial import proposals, tried
from normsurgery.errors import UsageError
from tests.calibrate.fit.walking import tiny


def test_first_proposal_is_the_cheapest_that_stands_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        losses = torch.rand(11, generator=generator).tolist()
        apart = [
            cut for cut in combinations(range(1, 11), 3)
            if all(b - a > 1 for a, b in pairwise(cut))
        ]  # fmt: skip
        best = min(apart, key=lambda cut: sum(losses[block] for block in cut))
        found = proposals(losses, 3)
        assert found[0] == best
        # each of its blocks is left out of some other proposal
        assert all(any(block not in cut for cut in found) for block in best)
        assert len(found) <= 4


def test_windows_are_proposed_too() -> None:
    assert (4, 5, 6) in proposals([9.0, *[1.0] * 8], 3, windows=[(4, 5, 6)])


def test_blocks_that_must_touch() -> None:
    assert proposals([9.0, 1.0, 2.0, 3.0], 3) == [(1, 2, 3)]


def test_too_few_blocks() -> None:
    with pytest.raises(UsageError, match="cannot be dropped"):
        proposals([1.0, None, 2.0], 2)


def test_the_block_that_does_nothing_is_chosen(tmp_path: Path) -> None:
    from tests.calibrate.fit.test_sequential import silence

    model = tiny("llama", tmp_path, rows=60)
    silence(model, 2)
    trials = tried(model.engine, model.writers, [(1,), (2,)], Plan((0,), substitute="refit"))
    assert trials[0].dropped == (2,)
    assert abs(trials[0].added_loss) < 1e-6 < trials[1].added_loss
    assert trials[0].to_dict() == {"blocks": [2], "trial": trials[0].added_loss}
