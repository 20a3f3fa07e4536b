"""Fold the numbers of a configuration that multiply tensors into weights: attention scales, muP.

Contract: exact. A number between two weights goes into the one before it (or the one after it), and
config.json holds its identity. An attention scale goes into the queries; a number on the output of
a tied head into the gain of the last norm; one on a tied embedding into the table, and out of the
gain of the last norm.
Where each number acts is seen by building the twin without it, and that the weights hold it is
checked there, number by number.
Refuses a number with something between it and every weight that could hold it.
Sources: "Tensor Programs V" (muP), arXiv 2203.03466; Gemma 2, arXiv 2408.00118.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from normsurgery.anatomy.absorb import absorb
from normsurgery.anatomy.config_places import Key, edited, find, value_at
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.push import trace_of
from normsurgery.anatomy.scaling_sites import UnmovedError, numbers_of, rebuilt, sites_of
from normsurgery.anatomy.sites import place
from normsurgery.anatomy.twin import Twin, relative_error
from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.edits import multiplied, why_not_editable
from normsurgery.surgery.folds import FoldOptions, FoldPlan, fold_receipt, said
from normsurgery.surgery.receipt import Receipt

# Keys of stock configurations → the value with which the number does nothing.
MUP_KEYS = dict.fromkeys(
    (
        "embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale",
        "lm_head_multiplier", "attention_in_multiplier", "attention_out_multiplier",
        "key_multiplier", "mlp_multipliers", "ssm_in_multiplier", "ssm_out_multiplier",
        "ssm_multipliers", "scale_emb", "scale_depth", "logits_mup_width_multiplier",
        "routed_scaling_factor", "router_scaling_factor", "route_scale",
    ),
    1.0,
)  # fmt: skip
SCALE_KEYS = dict.fromkeys(
    ("query_pre_attn_scalar", "attention_multiplier", "softmax_scale", "qk_scale_factor"), 1.0
)
_POWERS = (1.0, -1.0, 0.5, -0.5)
_BOUND = 1e-9


@dataclass(frozen=True)
class Multiplier:
    """A number of the configuration and the weights that will hold it.

    identity: its value when it does nothing. power: the weights' common factor is
    (value / identity) ** power. weights: parameter → the power of that factor. offsets: parameter
    → 1.0 where its class stores its value less one.
    """

    key: Key
    value: float
    identity: float
    power: float
    weights: Mapping[str, int]
    offsets: Mapping[str, float]

    @property
    def name(self) -> str:
        return ".".join(map(str, self.key))


def plan_mup(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """Every multiplier of the configuration but the attention scale."""
    return _plan("mup", MUP_KEYS, examination)


def plan_query_scale(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """The attention scale, where a configuration key holds it."""
    return _plan("query-scale", SCALE_KEYS, examination)


def _plan(name: str, keys: dict[str, float], examination: Examination) -> FoldPlan | str:
    found: list[Multiplier] = []
    left: dict[str, str] = {}
    values = examination.twin.model.config.to_dict()
    for key, value in numbers_of(values, keys):
        identity = next(keys[step] for step in reversed(key) if isinstance(step, str))
        if value == identity:
            continue
        try:
            found.append(_multiplier(examination, key, value, identity))
        except UnmovedError as error:
            left[".".join(map(str, key))] = str(error)
    if not found:
        return said(left) or "no key of its configuration multiplies anything"
    step = partial(_folded, names=examination.names, found=found, config=examination.config,
                   name=name)  # fmt: skip
    return FoldPlan(
        name, step, len(found), left=left,
        notes=tuple(f"{one.name} was {one.value:g}" for one in found),
        wrong={"the weights do not hold it": partial(step, scales=False)},
    )  # fmt: skip


def _multiplier(examination: Examination, key: Key, value: float, identity: float) -> Multiplier:
    """What holds one number. Raises UnmovedError where nothing does."""
    if not value:
        raise UnmovedError("it is zero")
    written = value_at(examination.twin.model.config.to_dict(), key)
    plain = rebuilt(examination, key, type(written)(identity))
    sites = sites_of(examination, plain)
    if not sites:
        raise UnmovedError("nothing that runs multiplies by it as one number")
    factor = sites[0].factor
    power = next((p for p in _POWERS if _close((value / identity) ** p, factor)), None) if (
        value > 0
    ) else (1.0 if _close(value / identity, factor) else None)  # fmt: skip
    if power is None or not all(_close(site.factor, factor) for site in sites):
        raise UnmovedError("it multiplies by different numbers in different places")
    norms = {site.norm.name: site.norm for site in examination.anatomy.sites.values()}
    weights = absorb(trace_of(examination.twin), norms, sites)
    offsets = {n.weight_name: n.offset for n in norms.values() if n.weight_name and n.offset}
    made = Multiplier(key, value, identity, power, weights, offsets)
    _check(examination, made, plain)
    return made


def _close(left: float, right: float) -> bool:
    return abs(left - right) <= 1e-12 * max(abs(left), abs(right))


def _check(examination: Examination, made: Multiplier, plain: Twin) -> None:
    """Raise UnmovedError unless the weights are whole on disk, all there, and hold the number."""
    reason = why_not_editable(examination.names, made.weights)
    if reason:
        raise UnmovedError(reason)
    parameters = dict(plain.model.named_parameters())
    places = {place(name) for name in made.weights}
    ran = trace_of(examination.twin).parameters
    missed = [n for n in parameters if place(n) in places and n not in made.weights]
    missed = [n for n in missed if n not in ran]
    if missed:
        raise UnmovedError(f"{missed[0]} was not run on the example inputs")
    factor = (made.value / made.identity) ** made.power
    with torch.no_grad():
        for name, power in made.weights.items():
            offset = made.offsets.get(name, 0.0)
            parameters[name].copy_((parameters[name] + offset) * factor**power - offset)
    twin = examination.twin
    ours, theirs = (run_outputs(one.model, twin.inputs) for one in (plain, twin))
    error = relative_error(ours, theirs)[0]
    if not error <= _BOUND:
        raise UnmovedError(f"the weights that could hold it are felt elsewhere too ({error:.1e})")


def _folded(
    source: Checkpoint,
    names: NameMap,
    found: Sequence[Multiplier],
    config: Any,
    name: str,
    *,
    scales: bool = True,
) -> tuple[Checkpoint, Receipt]:
    """scales: whether the weights gain what the configuration loses."""
    result, keys = source, dict[Key, Any]()
    for one in found:
        written = _written(source, one.key, config)
        factor = (float(written) / one.identity) ** one.power
        for parameter, power in one.weights.items() if scales else ():
            offset = one.offsets.get(parameter, 0.0)
            result = multiplied(result, names, parameter, factor**power, offset=offset)
        keys[one.key] = type(written)(one.identity)
    result = result.with_config(edited(result.config, keys, config))
    return fold_receipt(name, source, result, len(found))


def _written(source: Checkpoint, key: Key, config: Any) -> Any:
    """The number in config.json, or the class's default where it holds none."""
    where = find(source.config, key, config)
    return value_at(source.config if where else config.to_dict(), where or key)
