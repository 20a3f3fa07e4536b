"""Hadamard matrices of every order that is offered are Hadamard matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normsurgery.surgery.hadamard import hadamard, hadamard_factors

# Widths of well-known models, from SmolLM's 576 to Llama-3-405B's 16384.
WIDTHS = (
    576, 768, 896, 960, 1024, 1152, 1536, 1600, 2048, 2304, 2560, 2880, 3072, 3584, 3840, 4096,
    4544, 4608, 5120, 5376, 6144, 6656, 7168, 8192, 12288, 16384, 18432,
)  # fmt: skip


def test_every_small_order_is_made_but_those_that_need_another_construction() -> None:
    orders = range(4, 300, 4)
    missing = [order for order in orders if hadamard_factors(order) is None]
    # of these, 92, 116, 172 … are Williamson's
    assert missing == [92, 116, 156, 172, 184, 188, 232, 236, 260, 268, 292]
    for order in orders:
        factors = hadamard_factors(order)
        if factors is None:
            continue
        product = torch.ones(1, 1, dtype=torch.float64)
        for factor in factors:
            product = torch.kron(product, hadamard(factor))
        assert product.shape == (order, order)
        assert torch.equal(product.abs(), torch.ones_like(product))
        assert torch.equal(product @ product.T, order * torch.eye(order, dtype=torch.float64))
        assert bool((product[:, 0] == 1).all())


@pytest.mark.parametrize("width", WIDTHS)
def test_widths_of_models_have_small_factors(width: int) -> None:
    factors = hadamard_factors(width)
    assert factors is not None
    assert torch.tensor(factors).prod() == width
    for order in set(factors):
        made = hadamard(order)
        assert torch.equal(made @ made.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize(("order", "field"), [(28, 27), (20, 9), (52, 25), (100, 49), (244, 243)])
def test_fields_of_prime_powers_serve_as_well_as_primes(order: int, field: int) -> None:
    made = hadamard(order)
    assert order in (field + 1, 2 * (field + 1))
    assert torch.equal(made @ made.T, order * torch.eye(order, dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20_000))
def test_factors_multiply_to_the_order_or_there_are_none(order: int) -> None:
    factors = hadamard_factors(order)
    if order > 2 and order % 4:
        assert factors is None  # no such matrix exists
    elif order & (order - 1) == 0:
        assert factors is not None and max(factors, default=1) <= 32
    if factors is not None:
        product = 1
        for factor in factors:
            product *= factor
        assert product == order


@pytest.mark.parametrize("order", [3, 6, 92])
def test_an_order_without_a_construction_is_an_error(order: int) -> None:
    assert hadamard_factors(order) is None
    with pytest.raises(ValueError, match="no construction"):
        hadamard(order)
