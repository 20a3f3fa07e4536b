"""The arithmetic of exact folds: float64 inside, one rounding to the storage dtype at the end.

Matrices are worked on in slabs, so that a float64 copy of a whole tensor never exists.
Axes are those of the stored tensor; shapes are written for PyTorch's linear layout [out, in].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_SLAB_ELEMENTS = 256 << 10  # 2 MiB in float64: a slab stays in the processor's cache


def in_slabs(tensor: Tensor, function: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Apply `function(slab in float64, its rows)` along the first axis, rounding each slab once."""
    result = torch.empty_like(tensor)
    for rows in _slabs(tensor):
        result[rows] = function(tensor[rows].double(), rows)
    return result


def _slabs(tensor: Tensor) -> Iterator[slice]:
    step = max(1, _SLAB_ELEMENTS * tensor.shape[0] // max(1, tensor.numel()))
    for start in range(0, tensor.shape[0], step):
        yield slice(start, start + step)


def centred(weight: Tensor, *, dim: int, scale: Tensor | None = None) -> Tensor:
    """P W, or P diag(scale) W: the mean along `dim` subtracted, P = I − 11ᵀ/d.

    scale: [d], a per-channel gain that is folded in first (LayerScale).
    """

    def gained(slab: Tensor, rows: slice) -> Tensor:
        return slab if scale is None else slab * _gain(scale, dim, weight, rows)

    return _without_mean(weight, gained, dim)


def _without_mean(weight: Tensor, made: Callable[[Tensor, slice], Tensor], dim: int) -> Tensor:
    """`made` of each slab, less its mean along `dim` over the whole tensor."""
    if dim > 0:
        return in_slabs(weight, lambda slab, rows: _zero_mean(made(slab, rows), dim))
    # The mean runs over all slabs; a vector is a matrix with one column.
    sums = [made(weight[rows].double(), rows).sum(0) for rows in _slabs(weight)]
    mean = torch.stack(sums).sum(0) / weight.shape[0]
    return in_slabs(weight, lambda slab, rows: made(slab, rows) - mean)


def _zero_mean(slab: Tensor, dim: int) -> Tensor:
    return slab - slab.mean(dim, keepdim=True)


def scaled(weight: Tensor, scale: Tensor, *, dim: int) -> Tensor:
    """W diag(scale) with the gain along `dim`: γ folded into a reader. scale: [d]."""
    return in_slabs(weight, lambda slab, rows: slab * _gain(scale, dim, weight, rows))


def divided(
    weight: Tensor,
    divisor: Tensor,
    *,
    in_dim: int,
    out_dim: int,
    gain: Tensor | None = None,
    centre: bool = False,
) -> Tensor:
    """W diag(γ) / σ̂, or W diag(γ) P / σ̂: a norm with its divisor frozen, in its reader.

    gain: γ, [in], along `in_dim`. divisor: σ̂, one number or [out] along `out_dim`.
    """

    def made(slab: Tensor, rows: slice) -> Tensor:
        gained = slab if gain is None else slab * _gain(gain, in_dim, weight, rows)
        return gained / (_gain(divisor, out_dim, weight, rows) if divisor.dim() else divisor)

    return _without_mean(weight, made, in_dim) if centre else in_slabs(weight, made)


def contracted(weight: Tensor, vector: Tensor, *, dim: int) -> Tensor:
    """W v along `dim`, in float64: what a norm's β adds to its reader's output. vector: [d]."""
    wide = vector.double()
    slabs = ((weight[rows].double(), rows) for rows in _slabs(weight))
    if dim == 0:
        parts = [torch.tensordot(wide[rows], slab, dims=([0], [0])) for slab, rows in slabs]
        return torch.stack(parts).sum(0)
    return torch.cat([torch.tensordot(slab, wide, dims=([dim], [0])) for slab, _ in slabs])


def without_last(weight: Tensor, *, dim: int) -> Tensor:
    """Drop the last channel of a centred writer: it is minus the sum of the others (CRMSNorm)."""
    return weight.narrow(dim, 0, weight.shape[dim] - 1).contiguous()


def minus_last(weight: Tensor, *, dim: int) -> Tensor:
    """W[:, :-1] − W[:, -1:]: a reader of a zero-sum vector given without its last channel."""
    last = weight.narrow(dim, weight.shape[dim] - 1, 1).double()
    rest = weight.narrow(dim, 0, weight.shape[dim] - 1)
    return (rest.double() - last).to(weight.dtype).contiguous()


def _gain(scale: Tensor, dim: int, like: Tensor, rows: slice) -> Tensor:
    """The gain along `dim`, shaped to multiply the slab `like[rows]`."""
    view = [1] * like.dim()
    view[dim] = -1
    return scale.double()[rows if dim == 0 else slice(None)].reshape(view)
