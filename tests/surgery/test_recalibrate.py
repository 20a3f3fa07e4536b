"""A folded norm with a place for statistics computes what it computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from normsurgery.surgery.recalibrate import NormValues, reinserted

WIDTH = 6


def random_norm(seed: int) -> NormValues:
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(WIDTH, generator=generator, dtype=torch.float64) for _ in range(4)]
    return NormValues(values[0], values[1].square() + 0.1, values[2], values[3], 1e-3)


def folded_norm(gain: float = 1.0) -> NormValues:
    zero, full = torch.zeros(WIDTH).double(), torch.full((WIDTH,), 16384.0).double()
    weight = torch.full((WIDTH,), 128.0 * gain).double()
    return NormValues(zero, full, weight, torch.arange(WIDTH).double(), 1e-3)


def computed(norm: NormValues, x: Tensor) -> Tensor:
    return norm.weight * (x - norm.mean) / (norm.variance + norm.eps).sqrt() + norm.bias


@pytest.mark.parametrize("producer", [True, False])
def test_a_reinserted_norm_is_the_identity_that_it_was(producer):
    x = torch.randn(50, WIDTH, dtype=torch.float64)
    folded = folded_norm()
    new = reinserted(folded, random_norm(0), producer=producer)
    assert torch.allclose(computed(new, x), computed(folded, x), rtol=0, atol=1e-12)
    assert not new.is_folded


def test_after_a_producer_fold_the_statistics_are_those_of_the_folded_input():
    """The map's output is a x + c − s: of the original's statistics as its norm saw them."""
    original, folded = random_norm(1), folded_norm()
    new = reinserted(folded, original, producer=True)
    deviation = original.variance.sqrt()
    x = torch.stack([original.mean - deviation, original.mean + deviation])  # its mean and variance
    seen = computed(original, x) - folded.bias  # what the scaled map now gives
    assert torch.allclose(seen.mean(0), new.mean)
    assert torch.allclose(seen.var(0, correction=0), new.variance)
    # and of arXiv 2006.10518: mean β − s, variance γ², up to ε
    assert torch.allclose(new.mean, original.bias - folded.bias)
    exact = original.variance / (original.variance + original.eps)
    assert torch.allclose(new.variance, original.weight.square() * exact)


def test_other_folds_leave_the_input_and_so_its_statistics():
    original = random_norm(2)
    new = reinserted(folded_norm(), original, producer=False)
    assert torch.equal(new.mean, original.mean)
    assert torch.equal(new.variance, original.variance)


def test_what_counts_as_folded():
    assert folded_norm().is_folded
    assert not random_norm(0).is_folded
    assert not folded_norm(gain=1.5).is_folded
