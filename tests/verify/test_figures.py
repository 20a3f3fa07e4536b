"""Figures against their definitions, computed in one piece."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from normsurgery.verify import figures
from normsurgery.verify.figures import (
    Difference,
    DifferenceGatherer,
    PredictionGatherer,
    Spread,
    SpreadGatherer,
)


def gather(first: torch.Tensor, second: torch.Tensor, *, parts: int = 3) -> Difference:
    gatherer = DifferenceGatherer(first.numel())
    for a, b in zip(first.chunk(parts), second.chunk(parts), strict=True):
        gatherer.update(a, b)
    return gatherer.result()


@pytest.mark.parametrize("rows", [3, 37, 400])
def test_difference_is_that_of_the_whole(rows, monkeypatch):
    monkeypatch.setattr(figures, "CHUNK_VALUES", 256)  # several chunks
    generator = torch.Generator().manual_seed(rows)
    first, second = torch.randn(2, rows, 50, generator=generator)
    found = gather(first, second)
    whole = (first.double() - second.double()).abs().flatten().sort().values
    assert found.max == whole[-1]
    assert found.p999 == whole[math.ceil(0.999 * len(whole)) - 1]
    assert found.mean == pytest.approx(float(whole.mean()), rel=1e-12)
    assert (found.nonfinite, found.count) == (0, whole.numel())


def test_one_outlier_in_two_thousand_is_beyond_the_p999():
    first = torch.zeros(20, 100)
    second = first.clone()
    second[3, 7] = 5.0
    found = gather(first, second)
    assert (found.max, found.p999, found.mean) == (5.0, 0.0, 5.0 / 2000)


@pytest.mark.parametrize(
    ("first", "second", "nonfinite"),
    [(1.0, math.nan, 1), (1.0, math.inf, 1), (math.nan, 1.0, 1), (-math.inf, math.inf, 1),
     (-math.inf, -math.inf, 0), (math.nan, math.nan, 0)],
)  # fmt: skip
def test_values_finite_on_one_side_only_are_counted(first, second, nonfinite):
    found = gather(torch.tensor([[first, 2.0]]), torch.tensor([[second, 2.5]]), parts=1)
    assert found.nonfinite == nonfinite
    assert found.max == 0.5


def test_rows_that_were_announced_must_come():
    gatherer = DifferenceGatherer(10)
    gatherer.update(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="4 values came, 10 were announced"):
        gatherer.result()


def test_low_precision_is_compared_in_float64():
    first = torch.tensor([[256.0]], dtype=torch.bfloat16)
    second = torch.tensor([[256.5]], dtype=torch.float32)
    assert gather(first, second, parts=1).max == 0.5


def test_spread_of_finite_values():
    values = torch.randn(30, 20, generator=torch.Generator().manual_seed(0)).double() + 3
    gatherer = SpreadGatherer()
    for chunk in values.split(7):
        gatherer.update(chunk)
    gatherer.update(torch.tensor([[math.nan, math.inf]]))
    assert gatherer.result() == pytest.approx(float(values.std(correction=0)), rel=1e-9)
    assert (gatherer.finite, gatherer.nonfinite) == (600, 2)


def test_token_spread_uses_nearest_ranks():
    found = Spread.of(torch.arange(1, 2001).double())
    assert found is not None
    assert (found.mean, found.median, found.p999, found.max) == (1000.5, 1000.0, 1998.0, 2000.0)
    assert Spread.of(torch.empty(0)) is None


def test_predictions_are_torch_own(monkeypatch):
    monkeypatch.setattr(figures, "CHUNK_VALUES", 64)
    generator = torch.Generator().manual_seed(1)
    reference, candidate = torch.randn(2, 21, 13, generator=generator).double()
    labels = torch.randint(13, (21,), generator=generator)
    labels[::5] = -100
    first = torch.zeros(21, dtype=torch.bool)
    first[0] = True
    gatherer = PredictionGatherer()
    gatherer.update(reference, candidate, labels, first)
    found = gatherer.result()
    kl = functional.kl_div(
        candidate.log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    torch.testing.assert_close(found.kl, kl)
    assert torch.equal(found.agree, reference.argmax(-1) == candidate.argmax(-1))
    kept = labels >= 0
    losses = functional.cross_entropy(candidate[kept], labels[kept], reduction="none")
    torch.testing.assert_close(found.candidate_loss, losses)
    assert len(found.reference_loss) == len(found.loss_first) == int(kept.sum())


def test_a_tie_of_the_reference_agrees_with_either():
    gatherer = PredictionGatherer()
    gatherer.update(
        torch.tensor([[1.0, 1.0, 0.0]] * 2),
        torch.tensor([[0.9, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        torch.tensor([-100, -100]),
        torch.tensor([False, False]),
    )
    assert gatherer.result().agree.tolist() == [True, False]
