"""Norms are read by what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normsurgery.anatomy.norms import read_norm
from normsurgery.anatomy.twin import randomize

WIDTH = 24
SHAPE = (2, 5, WIDTH)


class StoresGainMinusOne(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class NoParameters(nn.Module):
    def forward(self, x):
        return F.layer_norm(x.to(torch.float32), x.shape[-1:], None, None, eps=1e-5).to(x.dtype)


class OddNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))
        self.beta = nn.Parameter(torch.zeros(WIDTH))
        self.variance_epsilon = 1e-12

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.gamma * (x - mean) / torch.sqrt(variance + self.variance_epsilon) + self.beta


class RootMeanSquare(nn.Module):
    def __init__(self, offset=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.offset = offset
        self.eps = 1e-6

    def forward(self, x):
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed * (self.weight + self.offset)


class UnbiasedVariance(nn.Module):
    """Divides by the sample's standard deviation (n − 1): no LayerNorm of ours."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return self.weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)


def _read(module: nn.Module, shape=SHAPE):
    module = module.double().eval()
    randomize(module, seed=1)
    return read_norm("norm", module, shape)


@pytest.mark.parametrize(
    ("module", "kind", "eps", "weight", "bias", "offset"),
    [
        (nn.LayerNorm(WIDTH, eps=1e-5), "LayerNorm", 1e-5, "weight", "bias", 0.0),
        (nn.LayerNorm(WIDTH, eps=1e-12, bias=False), "LayerNorm", 1e-12, "weight", None, 0.0),
        (StoresGainMinusOne(WIDTH, eps=3e-6), "LayerNorm", 3e-6, "weight", "bias", 1.0),
        (NoParameters(), "LayerNorm", 1e-5, None, None, 0.0),
        (OddNames(), "LayerNorm", 1e-12, "gamma", "beta", 0.0),
        (RootMeanSquare(), "RMSNorm", 1e-6, "weight", None, 0.0),
        (RootMeanSquare(offset=1.0), "RMSNorm", 1e-6, "weight", None, 1.0),
        (nn.RMSNorm(WIDTH, eps=1e-5), "RMSNorm", 1e-5, "weight", None, 0.0),
    ],
)
def test_a_norm_is_read_with_its_parameters(module, kind, eps, weight, bias, offset):
    norm = _read(module)
    assert norm is not None
    assert (norm.kind, norm.width, norm.axis) == (kind, WIDTH, -1)
    assert norm.eps == pytest.approx(eps, rel=1e-3)
    assert (norm.weight, norm.bias, norm.offset) == (weight, bias, offset)


@pytest.mark.parametrize(
    "module",
    [nn.GELU(), nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.Softmax(-1), nn.Identity(), nn.PReLU(1),
     UnbiasedVariance()],
)  # fmt: skip
def test_what_is_no_norm_is_not_read_as_one(module):
    assert _read(module) is None


def test_a_norm_over_image_channels_keeps_its_axis():
    class ChannelsFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))
            self.bias = nn.Parameter(torch.zeros(8))

        def forward(self, x):
            x = x.permute(0, 2, 3, 1)
            x = F.layer_norm(x, (8,), self.weight, self.bias, 1e-6)
            return x.permute(0, 3, 1, 2)

    norm = _read(ChannelsFirst(), (1, 8, 3, 5))
    assert norm is not None
    assert (norm.kind, norm.axis, norm.width) == ("LayerNorm", 1, 8)


def test_batch_norm_is_known_by_its_running_statistics():
    norm = _read(nn.BatchNorm2d(6), (1, 6, 3, 3))
    assert norm is not None
    assert (norm.kind, norm.axis, norm.width) == ("BatchNorm", 1, 6)
