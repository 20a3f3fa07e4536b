"""Move the value bias through attention into its output bias; drop a key bias that is not felt.

Contract: exact. A softmax's rows sum to one, so a constant in the values comes out of attention as
that constant: b_o ← b_o + W_o b_v, b_v ← 0. A constant in the keys adds to all scores of a query
the same number, which the softmax forgets, unless keys are rotated or normalized: b_k ← 0.
Both are felt on the twin and not assumed: sinks, gates, relative values and attention that is no
softmax do not pass.
Refuses an output projection without a bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.head_layouts import Layout, layouts, told_apart
from normsurgery.anatomy.linears import Linear, stored
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.push import Felt, push, stored_linear, trace_of
from normsurgery.anatomy.trace import Node, Trace
from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.edits import (
    Vector,
    filled,
    plus_product,
    whole,
    why_not_editable,
    with_zero_rows,
)
from normsurgery.surgery.folds import FoldOptions, FoldPlan, fold_receipt, said
from normsurgery.surgery.receipt import Receipt

_MIXES = {
    "matmul", "__matmul__", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention",
}  # fmt: skip
_SAME = 1e-9


@dataclass(frozen=True)
class Projection:
    """A linear with a bias that attention reads. width: channels that attention hands on."""

    weight: str
    bias: str
    calls: tuple[Linear, ...]


@dataclass(frozen=True)
class Passed:
    """A bias that is found to fold, in part or whole. into: the linear that reads attention, ""
    where none feels it. keys: whether it is the keys' part that folds."""

    bias: str
    weight: str
    layout: Layout
    into: str
    into_in_dim: int
    into_bias: str | None
    keys: bool
    config: Any  # the configuration object of the source

    def rows(self, source: Checkpoint, names: NameMap) -> Tensor | None:
        """The keys' rows; or, for each channel that `into` reads, the value's row of the bias."""
        size = source[names.on_disk(self.bias)[0][0]].shape[0]
        width = size
        if self.into:
            name, part = names.on_disk(self.into)[0]
            width = source[name].shape[part.axis(self.into_in_dim)]
        found = self.layout.rows(size, width, source.config, self.config)
        return None if found is None else found.keys if self.keys else found.values


def plan_value_bias(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """Every value bias that comes out of attention as a constant."""
    found, left = _search(checkpoint, examination, keys=False)
    ready: list[Passed] = []
    for one in found:
        if one.into_bias is None:
            left[one.bias] = f"{one.into.rpartition('.')[0]} has no bias to take it"
        else:
            ready.append(one)
    if not ready:
        return said(left) or "no bias comes out of attention as a constant"
    step = partial(_moved, names=examination.names, found=ready)
    return FoldPlan(
        "value-bias", step, len(ready), left=left,
        wrong={"the output bias does not gain it": partial(step, adds=False)},
    )  # fmt: skip


def plan_key_bias(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """Every key bias that no score feels, up to a number for each query."""
    found, left = _search(checkpoint, examination, keys=True)
    if not found:
        return said(left) or "no key has a bias that its scores forget"
    step = partial(_dropped, names=examination.names, found=found)
    return FoldPlan(
        "key-bias", step, len(found), left=left,
        wrong={"the keys' weight is gone too": partial(step, weights=True)},
    )  # fmt: skip


def _search(
    checkpoint: Checkpoint, examination: Examination, *, keys: bool
) -> tuple[list[Passed], dict[str, str]]:
    """The biases that fold, with their rows at full size; and those that cannot be edited."""
    recorded, names = trace_of(examination.twin), examination.names
    found: list[Passed] = []
    left: dict[str, str] = {}
    for projection in _projections(recorded):
        felt = [_pushed_all(recorded, call) for call in projection.calls]
        if not all(map(_mixes, felt)):
            continue
        passed = None
        for layout in layouts(examination.twin.model.config.to_dict()):
            passed = _passes(recorded, projection, felt, layout, examination, keys=keys)
            if passed is not None:
                break
        if passed is None:
            continue
        reason = why_not_editable(
            names, (passed.bias, passed.weight, passed.into or None, passed.into_bias)
        ) or _why_not_whole(names, passed)
        reason = reason or _why_no_rows(checkpoint, examination, passed)
        if reason:
            left[passed.bias] = reason
        else:
            found.append(passed)
    return found, left


def _why_no_rows(checkpoint: Checkpoint, examination: Examination, passed: Passed) -> str | None:
    """Why the rows of the real bias are not known, or None."""
    if passed.rows(checkpoint, examination.names) is None:
        return "its heads are not laid out as the twin's"
    twin, real = examination.twin.model.config.to_dict(), examination.config.to_dict()
    if not told_apart(passed.layout, twin, real):
        return "towers with different numbers of heads look alike in the twin"
    return None


def _why_not_whole(names: NameMap, passed: Passed) -> str | None:
    for parameter in filter(None, (passed.bias, passed.into, passed.into_bias)):
        held = names.on_disk(parameter)
        if any(part.index is not None or part.chunk is not None for _, part in held):
            return f"{parameter} lies on disk in pieces"
    return None


def _projections(recorded: Trace) -> list[Projection]:
    """Linears with a stored bias, by bias, with every call."""
    calls: dict[tuple[str, str], list[Linear]] = {}
    for node in recorded.nodes:
        linear = stored_linear(node)
        if linear is None or linear.kind != "linear" or linear.bias is None:
            continue
        weight = stored(linear.weight, linear.out_dim, node)
        if weight is not None and linear.bias.is_parameter and node.value is not None:
            calls.setdefault((weight.name, linear.bias.module), []).append(linear)
    return [Projection(weight, bias, tuple(found)) for (weight, bias), found in calls.items()]


def _pushed_all(recorded: Trace, call: Linear) -> Felt:
    assert call.node.value is not None
    size = call.node.value.shape[-1]
    return _pushed(recorded, call.node, torch.arange(size))


def _pushed(recorded: Trace, node: Node, rows: Tensor) -> Felt:
    """Push on these rows of a linear's output by a different number each, everywhere alike."""
    assert node.value is not None
    return push(recorded, node, node.value + _shift(node.value.shape[-1], rows))


def _shift(size: int, rows: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    noise = torch.rand(size, generator=generator, dtype=torch.float64) + 0.5
    shift = torch.zeros(size, dtype=torch.float64)
    shift[rows] = noise[rows]
    return shift


def _mixes(felt: Felt) -> bool:
    """Whether the push runs through a product of two computed tensors: attention's."""
    return any(
        node.op in _MIXES and sum(not parent.is_parameter for parent in node.parents) > 1
        for node in felt.changed
    )


def _passes(
    recorded: Trace,
    projection: Projection,
    felt: Sequence[Felt],
    layout: Layout,
    examination: Examination,
    *,
    keys: bool,
) -> Passed | None:
    """What folds with this layout, if every call of the linear agrees that it does."""
    config = examination.twin.model.config
    answers = [
        _call_passes(recorded, call, all_felt, layout, config, keys=keys)
        for call, all_felt in zip(projection.calls, felt, strict=True)
    ]
    if "" in answers or len({one.weight if one else None for one in answers if one != ""}) != 1:
        return None
    target = answers[0]
    made = partial(
        Passed, projection.bias, projection.weight, layout, keys=keys, config=examination.config
    )
    if target is None:
        return made("", 0, None)
    assert isinstance(target, Linear) and target.in_dim is not None
    weight = stored(target.weight, target.in_dim, target.node)
    bias = stored(target.bias, 0, target.node) if target.bias is not None else None
    return made(weight.name, weight.axis, bias.name if bias else None) if weight else None


def _call_passes(
    recorded: Trace, call: Linear, felt: Felt, layout: Layout, config: Any, *, keys: bool
) -> Linear | Literal[""] | None:
    """The linear that reads attention; None where no linear feels the whole bias; "" for no."""
    assert call.node.value is not None
    size = call.node.value.shape[-1]
    targets = [one for one in felt.linears if one.kind == "linear" and one.in_dim is not None]
    if keys and layout.name == "alone" and not felt.linears:
        return "" if felt.blocked else None
    for target in targets:
        assert target.argument.value is not None
        width = target.argument.value.shape[-1]
        rows = layout.rows(size, width, config.to_dict(), config)
        chosen = None if rows is None else rows.keys if keys else rows.values
        if chosen is None or (keys and len(chosen) == size):
            continue
        again = _pushed(recorded, call.node, chosen)
        if again.blocked or not _mixes(again):
            continue
        shift = _shift(size, chosen)[chosen]
        if not again.linears if keys else _is_constant(again, target, shift):
            return target
    return ""


def _is_constant(felt: Felt, target: Linear, shift: Tensor) -> bool:
    """Whether the target's argument is shifted by `shift` at every position, and nothing else."""
    if [one.node for one in felt.linears] != [target.node]:
        return False
    before, after = target.argument.value, felt.changed[target.argument]
    assert before is not None
    gap = (after - before - shift).abs()
    return bool(gap.max() <= _SAME * (1 + float(before.abs().max())))


def _moved(
    source: Checkpoint, names: NameMap, found: Sequence[Passed], *, adds: bool = True
) -> tuple[Checkpoint, Receipt]:
    """adds: whether the output bias gains what the values lose."""
    result = source
    for one in found:
        rows = one.rows(source, names)
        assert rows is not None
        if adds and one.into_bias:
            vector = _picked(whole(source, names, one.bias), rows)
            result = plus_product(
                result, names, one.into_bias, one.into, vector, in_dim=one.into_in_dim
            )
        result = with_zero_rows(result, names, one.bias, torch.unique(rows))
    return fold_receipt("value-bias", source, result, len(found))


def _dropped(
    source: Checkpoint, names: NameMap, found: Sequence[Passed], *, weights: bool = False
) -> tuple[Checkpoint, Receipt]:
    """weights: whether the weight that goes with the bias is lost too, for a wrong result."""
    result = source
    for one in found:
        rows = one.rows(source, names)
        assert rows is not None
        result = with_zero_rows(result, names, one.bias, rows)
        if weights:
            result = filled(result, names, one.weight, 0.0)
    return fold_receipt("key-bias", source, result, len(found))


def _picked(bias: Vector, rows: Tensor) -> Vector:
    return lambda: bias()[rows]
