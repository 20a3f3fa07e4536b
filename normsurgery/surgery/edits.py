"""Small edits of parameters by their names in memory, wherever and however they lie on disk.

Each takes a checkpoint and gives one; nothing is read until the result is written. Float64 inside,
one rounding at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from normsurgery.anatomy.names import NameMap, Part
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.surgery.algebra import contracted, scaled
from normsurgery.surgery.centre import checked_float

Vector = Callable[[], Tensor]  # read from disk only when it is needed; float64


def why_not_editable(names: NameMap, parameters: Iterable[str | None]) -> str | None:
    """Why one of these parameters cannot be edited on disk, or None."""
    for parameter in parameters:
        joint = names.joint(parameter) if parameter else None
        if joint:
            return f"{parameter} is only a piece of {joint} on disk"
    return None


def whole(source: Checkpoint, names: NameMap, parameter: str) -> Vector:
    """The value of a parameter that lies on disk in one piece, in float64."""
    name, part = names.on_disk(parameter)[0]
    stored = checked_float(source, name)
    return lambda: _upright(stored.load(), part).double()


def _upright(stored: Tensor, part: Part) -> Tensor:
    return stored.transpose(0, 1) if part.transposed else stored


def scaled_along(
    source: Checkpoint, names: NameMap, parameter: str, gain: Vector, *, axis: int
) -> Checkpoint:
    """Multiply along an axis of the parameter by a vector of that length."""
    edits: dict[str, LazyTensor] = {}
    for name, part in names.on_disk(parameter):
        dim = part.axis(axis)
        change = partial(_scaled, gain=gain, part=part, axis=axis, dim=dim)
        edits[name] = checked_float(source, name).map(change, by_rows=dim > 0)
    return source.override(edits)


def _scaled(stored: Tensor, *, gain: Vector, part: Part, axis: int, dim: int) -> Tensor:
    values = gain().flatten()
    if part.cuts_along(axis) and part.chunk is not None:
        values = values.chunk(part.chunk[1])[part.chunk[0]]
    return scaled(stored, values, dim=dim)


def multiplied(
    source: Checkpoint, names: NameMap, parameter: str, factor: float, *, offset: float = 0.0
) -> Checkpoint:
    """Multiply a parameter by a number. offset: 1.0 where what is stored is its value less one."""
    change = partial(_multiplied, factor=factor, offset=offset)
    edits = {
        name: checked_float(source, name).map(change, by_rows=True)
        for name, _ in names.on_disk(parameter)
    }
    return source.override(edits)


def _multiplied(stored: Tensor, *, factor: float, offset: float) -> Tensor:
    return ((stored.double() + offset) * factor - offset).to(stored.dtype)


def filled(source: Checkpoint, names: NameMap, parameter: str, value: float) -> Checkpoint:
    """Every element of a parameter set to a number."""
    change = partial(torch.full_like, fill_value=value)
    edits = {name: source[name].map(change) for name, _ in names.on_disk(parameter)}
    return source.override(edits)


def with_zero_rows(source: Checkpoint, names: NameMap, bias: str, rows: Tensor) -> Checkpoint:
    """A bias with zeros at these rows. rows: [n], indices."""
    change = partial(_zeroed, rows=rows)
    edits = {name: checked_float(source, name).map(change) for name, _ in names.on_disk(bias)}
    return source.override(edits)


def _zeroed(stored: Tensor, *, rows: Tensor) -> Tensor:
    new = stored.clone()
    new[rows] = 0
    return new


def plus_product(
    source: Checkpoint, names: NameMap, bias: str, weight: str, vector: Vector, *, in_dim: int
) -> Checkpoint:
    """b ← b + W v. vector: [in]; in_dim: the axis of the weight that it runs along."""
    (weight_name, part), *_ = names.on_disk(weight)
    change = partial(
        _plus, weight=checked_float(source, weight_name), vector=vector, dim=part.axis(in_dim)
    )
    edits = {name: checked_float(source, name).map(change) for name, _ in names.on_disk(bias)}
    return source.override(edits)


def plus_product_in_rows(
    source: Checkpoint,
    names: NameMap,
    table: str,
    weight: str,
    vector: Vector,
    *,
    in_dim: int,
    first: int,
) -> Checkpoint:
    """Add W v to every row of a table [..., rows, out] from `first` on."""
    (weight_name, part), *_ = names.on_disk(weight)
    change = partial(
        _plus_rows, weight=checked_float(source, weight_name), vector=vector,
        dim=part.axis(in_dim), first=first,
    )  # fmt: skip
    edits = {name: checked_float(source, name).map(change) for name, _ in names.on_disk(table)}
    return source.override(edits)


def _plus(bias: Tensor, *, weight: LazyTensor, vector: Vector, dim: int) -> Tensor:
    return (bias.double() + _product(weight, vector, dim)).to(bias.dtype)


def _plus_rows(
    table: Tensor, *, weight: LazyTensor, vector: Vector, dim: int, first: int
) -> Tensor:
    new = table.double().clone()
    new[..., first:, :] += _product(weight, vector, dim)
    return new.to(table.dtype)


def _product(weight: LazyTensor, vector: Vector, dim: int) -> Tensor:
    """W v; of a convolution summed over its taps, which all see the same constant."""
    product = contracted(weight.load(), vector(), dim=dim)
    return product.flatten(1).sum(1) if product.dim() > 1 else product
