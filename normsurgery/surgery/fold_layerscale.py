"""Fold a per-channel gain into the linear before it (LayerScale).

Contract: exact. λ ⊙ (W x + b) = (diag(λ) W) x + λ ⊙ b; leaves λ = 1. Where a stock
configuration builds the class without the gains, they are dropped and that is set instead.
Refuses a gain that something else reads, or whose linear something else reads.
Source of LayerScale: "Going deeper with Image Transformers", arXiv 2103.17239.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from normsurgery.anatomy.axes import SCALINGS, operands
from normsurgery.anatomy.config_places import Key, edited, set_at
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.linears import Linear, Stored, output_axis, stored
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.push import stored_linear, trace_of
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.trace import Node, Trace
from normsurgery.anatomy.twin import meta_model
from normsurgery.anatomy.writers import sole_source
from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.edits import filled, scaled_along, whole, why_not_editable
from normsurgery.surgery.folds import FoldOptions, FoldPlan, fold_receipt, said
from normsurgery.surgery.receipt import Receipt

# Configuration key of stock classes → the value with which they build no gain.
_SWITCHES: dict[str, Any] = {"layer_scale_init_value": 0.0}


@dataclass(frozen=True)
class Gain:
    """A stored per-channel gain and the linear before it. out_dim: of the weight."""

    name: str
    weight: str
    bias: str | None
    out_dim: int


def plan_layerscale(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """Every per-channel gain that stands straight after a linear with stored weights."""
    gains, left = _found(trace_of(examination.twin), examination.names)
    if not gains:
        if left:
            return said(left)
        return "no per-channel gain stands straight after a linear"
    switch = None if left else _switch(examination, {gain.name for gain in gains})
    note = "the gains are ones now"
    if switch:
        key, value = switch
        note = f"the gains are gone: {'.'.join(map(str, key))} is {value}, which builds none"
    step = partial(
        _folded, names=examination.names, gains=gains, switch=switch, config=examination.config
    )
    return FoldPlan(
        "layerscale", step, len(gains), left=left, notes=(note,),
        wrong={"the weights are not scaled": partial(step, scales=False)},
    )  # fmt: skip


def _found(recorded: Trace, names: NameMap) -> tuple[list[Gain], dict[str, str]]:
    gains: dict[str, Gain] = {}
    left: dict[str, str] = {}
    for node in recorded.nodes:
        if node.op not in SCALINGS or "div" in node.op:
            continue
        pair = _gain_and_linear(node)
        if pair is None:
            continue
        gain, linear = pair
        read = _as_gain(recorded, node, gain, linear)
        reason = read if isinstance(read, str) else why_not_editable(
            names, (read.name, read.weight, read.bias)
        )  # fmt: skip
        if isinstance(read, str) or reason:
            left[gain.name] = str(reason)
        else:
            gains[read.name] = read
    return [gain for name, gain in gains.items() if name not in left], left


def _gain_and_linear(node: Node) -> tuple[Stored, Linear] | None:
    """The stored gain and the linear whose output it multiplies, channel by channel."""
    pair = [operand for operand in operands(node) if isinstance(operand, Node)]
    if len(pair) != 2 or node.value is None:
        return None
    for gain, made in (pair, pair[::-1]):
        if gain.value is None or made.value is None or made.value.shape != node.value.shape:
            continue
        axis = _channel_axis(gain.value, node.value)
        found = (
            None if axis is None else stored(gain, axis - made.value.dim() + gain.value.dim(), node)
        )
        if axis is None or found is None:
            continue
        source = sole_source(made, axis)
        linear = stored_linear(source[0]) if source else None
        if source and linear and output_axis(linear) == source[1]:
            return found, linear
    return None


def _channel_axis(gain: Tensor, made: Tensor) -> int | None:
    """The axis of the product along which the gain varies, None unless it is just one."""
    wide = [axis for axis in range(-gain.dim(), 0) if gain.shape[axis] > 1]
    if len(wide) != 1 or gain.shape[wide[0]] != made.shape[wide[0]]:
        return None
    return made.dim() + wide[0]


def _as_gain(recorded: Trace, node: Node, gain: Stored, linear: Linear) -> Gain | str:
    weight = stored(linear.weight, linear.out_dim, linear.node)
    bias = stored(linear.bias, 0, linear.node) if linear.bias is not None else None
    if weight is None or (linear.bias is not None and bias is None):
        return f"{linear.node.module} computes its weight when it runs"
    for one in (gain, weight, *([bias] if bias else [])):
        readers = [c for c in recorded.parameters[one.name].consumers if c is not one.path[0]]
        if readers:
            return f"{one.name} is read by {readers[0].module} too"
    return Gain(gain.name, weight.name, bias.name if bias else None, weight.axis)


def _switch(examination: Examination, gains: set[str]) -> tuple[Key, Any] | None:
    """A configuration key and value with which the class builds everything but these gains."""
    values = examination.config.to_dict()
    present = set(meta_model(examination.model_class, examination.config).state_dict())
    for key, value in _places(values):
        tried = copy.deepcopy(values)
        set_at(tried, key, value)
        try:
            with quiet():
                config = type(examination.config).from_dict(tried)
            built = set(meta_model(examination.model_class, config).state_dict())
        except Exception:  # whatever a configuration class raises at a value that it refuses
            continue
        if present - built == gains and built <= present:
            return key, value
    return None


def _places(values: dict[str, Any], at: Key = ()) -> list[tuple[Key, Any]]:
    found: list[tuple[Key, Any]] = []
    for key, value in values.items():
        if key in _SWITCHES and isinstance(value, (int, float)):
            found.append(((*at, key), _SWITCHES[key]))
        elif isinstance(value, dict):
            found += _places(value, (*at, key))
    return found


def _folded(
    source: Checkpoint,
    names: NameMap,
    gains: Sequence[Gain],
    switch: tuple[Key, Any] | None,
    config: Any,
    *,
    scales: bool = True,
) -> tuple[Checkpoint, Receipt]:
    """scales: whether the linears gain what is taken from the gains."""
    result = source
    for gain in gains:
        values = whole(source, names, gain.name)
        if scales:
            result = scaled_along(result, names, gain.weight, values, axis=gain.out_dim)
            if gain.bias:
                result = scaled_along(result, names, gain.bias, values, axis=0)
        if switch is None:
            result = filled(result, names, gain.name, 1.0)
    if switch is not None:
        result = result.drop([name for gain in gains for name, _ in names.on_disk(gain.name)])
        result = result.with_config(edited(result.config, dict([switch]), config))
    return fold_receipt("layerscale", source, result, len(gains))
