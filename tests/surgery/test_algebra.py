"""The slab-wise arithmetic equals the formula written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normsurgery.surgery import algebra


def _random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    monkeypatch.setattr(algebra, "_SLAB_ELEMENTS", 7)  # so that every matrix is cut


shapes = st.lists(st.integers(1, 6), min_size=2, max_size=4)


@given(shape=shapes, data=st.data())
def test_centring_is_the_projection(shape, data):
    dim = data.draw(st.integers(0, len(shape) - 1))
    weight = _random(*shape)
    d = shape[dim]
    projection = torch.eye(d, dtype=torch.float64) - 1 / d
    expected = torch.tensordot(weight, projection, dims=([dim], [0])).movedim(-1, dim)
    assert torch.allclose(algebra.centred(weight, dim=dim), expected, atol=1e-12)


@given(shape=shapes, data=st.data())
def test_layer_scale_goes_in_before_the_projection(shape, data):
    dim = data.draw(st.integers(0, len(shape) - 1))
    weight, scale = _random(*shape), _random(shape[dim], seed=1)
    view = [1] * len(shape)
    view[dim] = -1
    expected = algebra.centred(weight * scale.view(view), dim=dim)
    assert torch.allclose(algebra.centred(weight, dim=dim, scale=scale), expected, atol=1e-12)


@given(shape=shapes, data=st.data())
def test_contraction_is_a_matrix_product(shape, data):
    dim = data.draw(st.integers(0, len(shape) - 1))
    weight, vector = _random(*shape), _random(shape[dim], seed=1)
    expected = torch.tensordot(weight, vector, dims=([dim], [0]))
    assert torch.allclose(algebra.contracted(weight, vector, dim=dim), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_rounding_to_the_storage_dtype(dtype):
    weight = _random(6, 5, dtype=torch.float32).to(dtype)
    wide = weight.double()
    expected = (wide - wide.mean(0, keepdim=True)).to(dtype)
    assert torch.equal(algebra.centred(weight, dim=0), expected)


def test_a_vector_is_centred_whole():
    bias = _random(9)
    assert abs(float(algebra.centred(bias, dim=0).sum())) < 1e-12


def test_a_lost_channel_is_minus_the_sum_of_the_others():
    weight, stream = _random(4, 6), algebra.centred(_random(6, seed=1), dim=0)
    narrow = algebra.minus_last(weight, dim=1)
    assert torch.allclose(narrow @ stream[:-1], weight @ stream, atol=1e-12)
    assert algebra.without_last(stream, dim=0).shape == (5,)
