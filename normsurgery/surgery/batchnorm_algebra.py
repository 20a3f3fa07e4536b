"""The arithmetic of BatchNorm folds on one map's weight, in float64 and in memory's layout.

Which axes count the outputs and the inputs is told by `out_dim` and `in_dim`. Of a grouped
convolution the second axis holds one group's channels only, and the first holds all groups one
after another: that is seen from the lengths, so a depthwise convolution needs nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normsurgery.errors import SurgeryError


def scaled_channels(weight: Tensor, scale: Tensor, dim: int) -> Tensor:
    """W with the channels along `dim` multiplied by `scale` [channels of all groups]."""
    groups = _groups(weight, len(scale), dim)
    if groups == 1:
        view = [1] * weight.dim()
        view[dim] = -1
        return weight * scale.reshape(view)
    rest = [1] * (weight.dim() - 2)
    gains = scale.reshape(groups, 1, -1, *rest)
    return (_grouped(weight, groups) * gains).reshape(weight.shape)


def pushed_through(weight: Tensor, vector: Tensor, *, in_dim: int) -> Tensor:
    """W v [outputs] for a constant input v [inputs]: what a norm's shift adds to each output.

    For linears and unpadded convolutions, not for transposed ones.
    """
    taps = weight.flatten(2).sum(-1) if weight.dim() > 2 else weight
    if in_dim == 0:
        return vector @ taps
    groups = _groups(weight, len(vector), in_dim)
    if groups == 1:
        return taps @ vector
    shares = _grouped(taps, groups) * vector.reshape(groups, 1, -1)
    return shares.sum(-1).reshape(-1)


def plus_diagonal(weight: Tensor, values: Tensor, centre: Sequence[int]) -> Tensor:
    """W with `values` [channels] added where output channel i meets input channel i, at a tap.

    weight: [channels, channels / groups, kernel…] of a convolution, or [out, in] of a linear.
    """
    channel = torch.arange(weight.shape[0])
    at: tuple[Any, ...] = (channel, channel % weight.shape[1], *centre)
    result = weight.clone()
    result[at] += values
    return result


def placed(kernel: Tensor, shape: Sequence[int], offset: Sequence[int]) -> Tensor:
    """A kernel inside a larger one of zeros, its first tap at `offset`."""
    result = kernel.new_zeros(tuple(shape))
    window: tuple[Any, ...] = (slice(None), slice(None))
    for start, size in zip(offset, kernel.shape[2:], strict=True):
        window = (*window, slice(start, start + size))
    result[window] = kernel
    return result


def _grouped(weight: Tensor, groups: int) -> Tensor:
    return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])


def _groups(weight: Tensor, channels: int, dim: int) -> int:
    """How many groups make `channels` of what stands along `dim`."""
    groups, odd = divmod(channels, weight.shape[dim])
    other = weight.shape[0] if dim == 1 else 1
    if odd or not groups or other % groups:
        raise SurgeryError(
            f"internal error: {channels} channels do not fit axis {dim} of {list(weight.shape)}",
            "please report this, with the command and the model",
        )
    return groups
