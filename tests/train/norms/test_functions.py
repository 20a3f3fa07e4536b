"""The real and the frozen norm against formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from normsurgery.anatomy.norms import Norm
from normsurgery.train.norms.functions import frozen, real, spread

WIDTH = 7
LAYER = Norm("n", "LayerNorm", "LayerNorm", WIDTH, 1e-5, "weight", "bias")
PLUS_ONE = Norm("n", "LayerNorm", "LayerNorm1P", WIDTH, 1e-5, "weight", "bias", offset=1.0)
BARE = Norm("n", "LayerNorm", "OlmoLayerNorm", WIDTH, 1e-5, None, None)
RMS = Norm("n", "RMSNorm", "RMSNorm", WIDTH, 1e-6, "weight", None)
GEMMA = Norm("n", "RMSNorm", "GemmaRMSNorm", WIDTH, 1e-6, "weight", None, offset=1.0)
NORMS = {"layer": LAYER, "plus one": PLUS_ONE, "bare": BARE, "rms": RMS, "gemma": GEMMA}


def _drawn(norm: Norm, *, heads: int = 0) -> tuple[Tensor, Tensor | None, Tensor | None]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *[heads] * (heads > 0), WIDTH, generator=draw, dtype=torch.float64)
    x = x * torch.tensor([1.0, 9.0, 200.0]).double().view(1, 3, *[1] * (x.dim() - 2)) + 0.7
    shape = (heads, WIDTH) if heads else (WIDTH,)
    weight = torch.rand(shape, generator=draw, dtype=torch.float64) + 0.5 if norm.weight else None
    bias = torch.randn(shape, generator=draw, dtype=torch.float64) if norm.bias else None
    leaves = [None if t is None else t.requires_grad_() for t in (x, weight, bias)]
    assert leaves[0] is not None
    return leaves[0], leaves[1], leaves[2]


def _naive(x: Tensor, norm: Norm, weight: Tensor | None, bias: Tensor | None, s: Tensor) -> Tensor:
    centred = x if norm.kind == "RMSNorm" else x - x.sum(-1, keepdim=True) / WIDTH
    y = centred / s
    y = y if weight is None else y * (weight + norm.offset)
    return y if bias is None else y + bias


def _naive_sigma(x: Tensor, norm: Norm) -> Tensor:
    centred = x if norm.kind == "RMSNorm" else x - x.sum(-1, keepdim=True) / WIDTH
    return ((centred * centred).sum(-1, keepdim=True) / WIDTH + norm.eps).sqrt()


def _same_with_gradients(ours: Tensor, theirs: Tensor, leaves: list[Tensor | None]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    draw = torch.Generator().manual_seed(1)
    wanted = [leaf for leaf in leaves if leaf is not None]
    out = torch.randn(ours.shape, generator=draw, dtype=ours.dtype)
    for one, other in zip(
        torch.autograd.grad(ours, wanted, out),
        torch.autograd.grad(theirs, wanted, out),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("heads", [0, 4])
@pytest.mark.parametrize("name", NORMS)
def test_real(name: str, heads: int) -> None:
    norm = NORMS[name]
    x, weight, bias = _drawn(norm, heads=heads)
    y, sigma = real(x, norm, weight, bias)
    wanted = _naive_sigma(x, norm)
    _same_with_gradients(y, _naive(x, norm, weight, bias, wanted), [x, weight, bias])
    torch.testing.assert_close(sigma, wanted[..., 0].detach(), rtol=1e-12, atol=1e-12)
    assert not sigma.requires_grad


@pytest.mark.parametrize("heads", [0, 4])
@pytest.mark.parametrize("name", NORMS)
def test_frozen(name: str, heads: int) -> None:
    norm = NORMS[name]
    x, weight, bias = _drawn(norm, heads=heads)
    sigma = torch.tensor(3.7, dtype=torch.float64)
    y = frozen(x, norm, weight, bias, sigma)
    _same_with_gradients(y, _naive(x, norm, weight, bias, sigma), [x, weight, bias])


@pytest.mark.parametrize("name", NORMS)
def test_frozen_where_some_rows_have_a_sigma_of_their_own(name: str) -> None:
    norm = NORMS[name]
    x, weight, bias = _drawn(norm)
    own = torch.tensor([108.0, 2.8, 3.1], dtype=torch.float64).view(1, 3, 1).expand(2, 3, 1)
    sigma = torch.tensor(2.8, dtype=torch.float64)
    y = frozen(x, norm, weight, bias, sigma, sigma / own)
    _same_with_gradients(y, _naive(x, norm, weight, bias, own), [x, weight, bias])


@pytest.mark.parametrize("norm", [LAYER, GEMMA])
def test_gradients_of_the_frozen_norm(norm: Norm) -> None:
    x, weight, bias = _drawn(norm)
    sigma = torch.tensor(0.3, dtype=torch.float64)
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]

    def run(*given: Tensor) -> Tensor:
        return frozen(given[0], norm, given[1], given[2] if norm.bias else None, sigma)

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NORMS)
def test_lower_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    norm = NORMS[name]
    x, weight, bias = (None if t is None else t.detach().to(dtype) for t in _drawn(norm))
    assert x is not None
    sigma = torch.tensor(3.7, dtype=torch.float64)
    wide = [None if t is None else t.double() for t in (weight, bias)]
    expected = _naive(x.double(), norm, wide[0], wide[1], sigma)
    ours = frozen(x, norm, weight, bias, sigma)
    assert ours.dtype == dtype
    assert torch.allclose(ours, expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    assert real(x, norm, weight, bias)[0].dtype == dtype
    assert real(x, norm, weight, bias)[1].dtype == torch.float32


def test_float32_weights_of_bfloat16_rows_give_float32() -> None:
    x, weight, bias = _drawn(LAYER)
    assert weight is not None and bias is not None
    given = (x.bfloat16(), LAYER, weight.float(), bias.float())
    assert frozen(*given, torch.tensor(2.0)).dtype == torch.float32
    assert real(*given)[0].dtype == torch.float32


@pytest.mark.parametrize("name", NORMS)
def test_spread(name: str) -> None:
    norm = NORMS[name]
    x, _, _ = _drawn(norm)
    _same_with_gradients(spread(x, norm), _naive_sigma(x, norm)[..., 0], [x])
