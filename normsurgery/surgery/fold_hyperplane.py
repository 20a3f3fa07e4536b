"""Make a linear that reads a norm's output raw ignore the mean of what it reads (ModernBERT).

Contract: exact. A LayerNorm's output v = γ x̂ + β lies in the hyperplane g·(v − β) = 0, g = 1/γ, so
W v + b = W (I − 1 gᵀ/(gᵀ1)) v + (b + W 1 (g·β)/(gᵀ1)), and the new matrix maps 1 to zero: it gives
the same for v and for v less its mean. The stock class computes the same function.
Refuses: a γ with a value near zero, or with Σ 1/γ near zero, where the fold would lose precision.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from normsurgery.anatomy.model import Anatomy, RawReader
from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.algebra import in_slabs
from normsurgery.surgery.centre import checked_float
from normsurgery.surgery.fold_norm import gain_of, shift_of
from normsurgery.surgery.receipt import Receipt, receipt_of

_SMALL = 1e-3  # of the largest |γ|, or of Σ |1/γ|


def fold_hyperplanes(
    source: Checkpoint, anatomy: Anatomy, names: NameMap
) -> tuple[Checkpoint, Receipt]:
    """Fold the hyperplane of each norm into the linears that read its output raw."""
    edits: dict[str, LazyTensor] = {}
    for stream in anatomy.convertible():
        for raw in stream.raw_readers:
            edits |= _folded(source, names, raw)
    result = source.override(edits)
    return result, receipt_of("fold-hyperplane", source, result, changed=edits)


def _folded(source: Checkpoint, names: NameMap, raw: RawReader) -> dict[str, LazyTensor]:
    inverse = _inverse_gain(source, names, raw)
    edits: dict[str, LazyTensor] = {}
    weight_name, held = names.on_disk(raw.reader.weight)[0]
    dim = held.axis(raw.reader.in_dim)
    weight = checked_float(source, weight_name)
    edits[weight_name] = weight.map(partial(ignoring_mean, direction=inverse, dim=dim))
    beta = shift_of(source, names, raw.norm)
    if beta is not None and raw.reader.bias:
        share = float(inverse @ beta() / inverse.sum())
        for name, _ in names.on_disk(raw.reader.bias):
            add = partial(_plus_row_sums, weight=weight, share=share, dim=dim)
            edits[name] = checked_float(source, name).map(add)
    return edits


def _inverse_gain(source: Checkpoint, names: NameMap, raw: RawReader) -> Tensor:
    gain = gain_of(source, names, raw.norm)
    if gain is None:
        weight, part = names.on_disk(raw.reader.weight)[0]
        return torch.ones(source[weight].shape[part.axis(raw.reader.in_dim)], dtype=torch.float64)
    gamma = gain()
    inverse = 1 / gamma
    small = gamma.abs().min() < _SMALL * gamma.abs().max()
    if small or inverse.sum().abs() < _SMALL * inverse.abs().sum():
        raise UnsupportedModelError(
            f"{raw.reader.module} reads the stream without a norm, and γ of {raw.norm.name} is too "
            "close to zero somewhere to make it ignore the mean",
            "normsurgery inspect MODEL   # what does apply",
        )
    return inverse


def ignoring_mean(weight: Tensor, *, direction: Tensor, dim: int) -> Tensor:
    """W (I − 1 gᵀ/(gᵀ1)) along `dim`. direction: g, [d] in float64."""
    view = [1] * weight.dim()
    view[dim] = -1
    share = (direction / direction.sum()).view(view)
    if dim == 0:
        total = weight.double().sum(0, keepdim=True)
        return in_slabs(weight, lambda slab, rows: slab - total * share[rows])
    return in_slabs(weight, lambda slab, _: slab - slab.sum(dim, keepdim=True) * share)


def _plus_row_sums(bias: Tensor, *, weight: LazyTensor, share: float, dim: int) -> Tensor:
    sums: Tensor = weight.load().double().sum(dim)
    return (bias.double() + sums * share).to(bias.dtype)
