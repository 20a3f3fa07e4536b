"""Bake weight normalization: store the weight that g and v make, in their place.

Contract: exact. W = g v/‖v‖; v ← W and g ← ‖W‖, so that the stock class, which
normalizes all the same, gets W back. A negative g turns the sign of v.
Refuses weight standardization, (W − mean)/√(var + ε): of the weights that standardize to the same,
none but the centred source has its own standardization as value, because of ε.
Source: "Weight Normalization", arXiv 1602.07868.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.linears import as_linear, stored
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.push import trace_of
from normsurgery.anatomy.trace import Node
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.surgery.centre import checked_float
from normsurgery.surgery.edits import why_not_editable
from normsurgery.surgery.folds import FoldOptions, FoldPlan, fold_receipt, said
from normsurgery.surgery.receipt import Receipt

_EXACT = 1e-12


@dataclass(frozen=True)
class Normalized:
    """A weight that is g v/‖v‖, by its module. gain, direction: parameters. axes: of the norm."""

    module: str
    gain: str
    direction: str
    axes: tuple[int, ...]


def plan_weight_norm(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """Every module whose weight is a direction times a length, whatever the two are called."""
    names, model = examination.names, examination.twin.model
    found: list[Normalized] = []
    left = _computed_weights(examination)
    for module_name, module in model.named_modules():
        pair = _read(module_name, module, left)
        if pair is None:
            continue
        left.pop(module_name, None)
        reason = why_not_editable(names, (pair.gain, pair.direction))
        if reason or pair.gain in examination.anatomy.tied:
            left[module_name] = reason or f"{pair.gain} is tied to another"
        else:
            found.append(pair)
    if not found:
        if left:
            return said(left)
        return "no weight is normalized when the model runs"
    step = partial(_baked, names=names, found=found)
    return FoldPlan(
        "weight-norm", step, len(found), left=left,
        wrong={"the length is one": partial(step, length=torch.ones_like)},
    )  # fmt: skip


def _read(name: str, module: nn.Module, computed: dict[str, str]) -> Normalized | None:
    """The two parameters of a module whose weight they make, checked on their values."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or f"{name}.weight" in computed:
        return None
    here = f"{name}." if name else ""
    inside = {
        key: value
        for key, value in module.named_parameters()
        if key.count(".") == 0 or key.startswith("parametrizations.weight.")
    }
    directions = [key for key, value in inside.items() if value.shape == weight.shape]
    for key in directions:
        for other, gain in inside.items():
            axes = _norm_axes(gain, weight)
            if other == key or not axes:
                continue
            made = inside[key] * (gain / _norm(inside[key], axes))
            if torch.allclose(made, weight, rtol=_EXACT, atol=_EXACT):
                return Normalized(name, here + other, here + key, axes)
    return None


def _norm(value: Tensor, axes: tuple[int, ...]) -> Tensor:
    return value.square().sum(axes, keepdim=True).sqrt()


def _norm_axes(gain: Tensor, weight: Tensor) -> tuple[int, ...]:
    """The axes over which the direction is normalized: those in which g has no extent."""
    if gain.dim() != weight.dim():
        return ()
    axes = tuple(axis for axis, size in enumerate(gain.shape) if size == 1)
    same = all(gain.shape[a] == weight.shape[a] for a in range(gain.dim()) if a not in axes)
    return axes if same and 0 < len(axes) else ()


def _computed_weights(examination: Examination) -> dict[str, str]:
    """Modules whose linear computes its weight from a parameter when it runs, and what that is."""
    left: dict[str, str] = {}
    for node in trace_of(examination.twin).nodes:
        linear = as_linear(node)
        if linear is None or linear.kind == "embedding" or linear.weight.is_parameter:
            continue
        if stored(linear.weight, linear.out_dim, node) is not None:
            continue
        if not _from_parameters(linear.weight):
            continue
        if not hasattr(examination.twin.model.get_submodule(node.module), "weight"):
            continue
        left[node.module] = (
            "its weight is standardized when it runs, and no other weight standardizes to itself "
            "with that ε"
        )
    return left


def _from_parameters(node: Node) -> bool:
    """Whether everything that it is computed from is a parameter or a constant."""
    queue, seen, parameters = [node], set[Node](), 0
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        parameters += current.is_parameter
        if not current.parents and current.op not in ("parameter", "constant", "buffer"):
            return False
        queue += current.parents
    return bool(parameters) and len(seen) < 30


def _baked(
    source: Checkpoint,
    names: NameMap,
    found: Sequence[Normalized],
    *,
    length: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Checkpoint, Receipt]:
    """length: what stands for ‖W‖, for a wrong result."""
    edits: dict[str, LazyTensor] = {}
    for one in found:
        gain, direction = names.on_disk(one.gain)[0][0], names.on_disk(one.direction)[0][0]
        stored_gain, before = checked_float(source, gain), checked_float(source, direction)
        after = before.map(partial(_weight, gain=stored_gain, axes=one.axes))
        edits[direction] = after
        # Of the weight as it is rounded: the class divides by the norm of what is stored.
        made = partial(_length, weight=after, axes=one.axes)
        edits[gain] = stored_gain.map(length or made)
    result = source.override(edits)
    return fold_receipt("weight-norm", source, result, len(found))


def _weight(stored: Tensor, *, gain: LazyTensor, axes: tuple[int, ...]) -> Tensor:
    wide = stored.double()
    norm = _norm(wide, axes)
    unit = torch.where(norm > 0, wide / norm, wide)
    return (unit * gain.load().double()).to(stored.dtype)


def _length(stored: Tensor, *, weight: LazyTensor, axes: tuple[int, ...]) -> Tensor:
    return _norm(weight.load().double(), axes).to(stored.dtype)
