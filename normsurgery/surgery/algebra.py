"""The arithmetic of exact folds: float64 inside, one rounding to the storage dtype at the end.

Matrices are worked on in slabs, so that a float64 copy of a whole tensor never exists.
Axes are those of the stored tensor; shapes are written for PyTorch's linear layout [out, in].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_SLAB_ELEMENTS = 4 << 20  # 32 MiB in float64


def _slabs(tensor: Tensor, along: int) -> Iterator[tuple[slice, ...]]:
    """Index tuples that cut `tensor` along one axis into pieces of bounded size."""
    step = max(1, _SLAB_ELEMENTS * tensor.shape[along] // max(1, tensor.numel()))
    for start in range(0, tensor.shape[along], step):
        yield (slice(None),) * along + (slice(start, start + step),)


def in_slabs(tensor: Tensor, function: Callable[[Tensor, slice], Tensor], *, along: int) -> Tensor:
    """Apply `function(piece in float64, its slice along the axis)` piece by piece."""
    result = torch.empty_like(tensor)
    for index in _slabs(tensor, along):
        piece = tensor[index].double()
        result[index] = function(piece, index[-1]).to(tensor.dtype)
    return result


def centred(weight: Tensor, *, dim: int) -> Tensor:
    """Subtract the mean along `dim`: P W of math.md §1, P = I − 11ᵀ/d."""
    if weight.dim() == 1:
        wide = weight.double()
        return (wide - wide.mean()).to(weight.dtype)
    other = _widest_other(weight, dim)
    return in_slabs(weight, lambda piece, _: piece - piece.mean(dim, keepdim=True), along=other)


def scaled_and_centred(weight: Tensor, scale: Tensor, *, dim: int) -> Tensor:
    """P diag(scale) W: a per-channel gain folded into its writer, then centred. scale: [d]."""
    gain = _aligned(scale.double(), dim, weight)
    if weight.dim() == 1:
        wide = weight.double() * gain
        return (wide - wide.mean()).to(weight.dtype)
    other = _widest_other(weight, dim)

    def fold(piece: Tensor, _: slice) -> Tensor:
        wide = piece * gain
        return wide - wide.mean(dim, keepdim=True)

    return in_slabs(weight, fold, along=other)


def scaled(weight: Tensor, scale: Tensor, *, dim: int) -> Tensor:
    """W diag(scale) with the gain along `dim`: γ folded into a reader. scale: [d]."""
    gain = _aligned(scale.double(), dim, weight)
    other = _widest_other(weight, dim)
    return in_slabs(weight, lambda piece, _: piece * gain, along=other)


def contracted(weight: Tensor, vector: Tensor, *, dim: int) -> Tensor:
    """W v along `dim`, in float64: what a norm's β adds to its reader's output. vector: [d]."""
    wide = vector.double()
    if weight.dim() == 1:
        return (weight.double() * wide).sum()
    other = _widest_other(weight, dim)
    shape = [size for axis, size in enumerate(weight.shape) if axis != dim]
    result = torch.zeros(shape, dtype=torch.float64)
    kept = other - (other > dim)
    for index in _slabs(weight, other):
        piece = torch.tensordot(weight[index].double(), wide, dims=([dim], [0]))
        result[(slice(None),) * kept + (index[-1],)] = piece
    return result


def without_last(weight: Tensor, *, dim: int) -> Tensor:
    """Drop the last channel of a centred writer: it is minus the sum of the others (CRMSNorm)."""
    return weight.narrow(dim, 0, weight.shape[dim] - 1).contiguous()


def minus_last(weight: Tensor, *, dim: int) -> Tensor:
    """W[:, :-1] − W[:, -1:]: a reader of a zero-sum vector given without its last channel."""
    last = weight.narrow(dim, weight.shape[dim] - 1, 1).double()
    rest = weight.narrow(dim, 0, weight.shape[dim] - 1)
    return (rest.double() - last).to(weight.dtype).contiguous()


def _aligned(vector: Tensor, dim: int, like: Tensor) -> Tensor:
    view = [1] * like.dim()
    view[dim] = -1
    return vector.reshape(view)


def _widest_other(tensor: Tensor, dim: int) -> int:
    """An axis other than `dim` to cut along, the longest one."""
    others = [axis for axis in range(tensor.dim()) if axis != dim]
    return max(others, key=lambda axis: tensor.shape[axis])
