"""Facts of the real weights that a plan relies on, and the twin to which they are given.

A zero β on disk, or values that never reach a clip, let a plan leave something out. The twin's
weights are random, so it is built to have the same facts: else it would be proof of another claim.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Mapping

import torch

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.model import NormSite, Reader
from normsurgery.anatomy.twin import build_twin
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.native.conditions import value_at
from normsurgery.surgery.fold_norm import gain_of, shift_of

_OUT_OF_REACH = 1e30
_SLACK = 1.01  # rounding, also where the model runs in bfloat16
_PROJECTION = re.compile(r".*(?:q_proj|k_proj|v_proj|Wqkv)\.weight")


def with_zero(examination: Examination, parameter: str) -> Examination:
    """The examination with a twin in which this parameter is zero too."""
    twin = examination.twin
    model = copy.deepcopy(twin.model)
    with torch.no_grad():
        model.get_parameter(parameter).zero_()
    return dataclasses.replace(examination, twin=dataclasses.replace(twin, model=model))


def unclipped(examination: Examination, key: str) -> Examination:
    """The examination with a twin whose clip, a configuration key (dotted), is out of reach.

    Null would do for OLMo, but DBRX's code does not run with it.
    """
    config = copy.deepcopy(examination.config)
    *path, last = key.split(".")
    holder = value_at(config, ".".join(path)) if path else config
    if isinstance(holder, Mapping):
        holder[last] = _OUT_OF_REACH  # type: ignore[index]
    else:
        setattr(holder, last, _OUT_OF_REACH)
    return dataclasses.replace(examination, twin=build_twin(examination.model_class, config))


def why_clipped(
    checkpoint: Checkpoint, examination: Examination, key: str, limit: float
) -> str | None:
    """Why queries, keys and values may reach ±limit, or None where they provably cannot.

    A normalized row has norm √d at most, so |w · (γ x̂ + β) + b| ≤ ‖w γ‖ √d + |w · β + b|.
    Reads the projections' weights.
    """
    worst = 0.0
    for site in examination.anatomy.sites.values():
        for reader in site.readers:
            if _PROJECTION.fullmatch(reader.weight):
                worst = max(worst, _bound(checkpoint, examination, site, reader))
    if worst * _SLACK <= limit:
        return None
    return (
        f"{key} is {limit:g}, and its queries, keys or values may reach it: "
        f"their norms allow {worst:.3g}"
    )


def _bound(
    checkpoint: Checkpoint, examination: Examination, site: NormSite, reader: Reader
) -> float:
    """The largest value that a linear [out, width] can give for this norm's output."""
    names = examination.names
    weight = _held(checkpoint, examination, reader.weight)
    gamma, beta = gain_of(checkpoint, names, site.norm), shift_of(checkpoint, names, site.norm)
    ones = torch.ones(weight.shape[1], dtype=torch.float64)
    gain, shift = gamma() if gamma else ones, beta() if beta else 0 * ones
    bias = _held(checkpoint, examination, reader.bias).load().double() if reader.bias else None
    worst, start = 0.0, 0
    for slab in weight.slabs():
        rows = slab.double()
        constant = rows @ shift
        if bias is not None:
            constant = constant + bias[start : start + len(rows)]
        reach = (rows * gain).norm(dim=1) * math.sqrt(weight.shape[1]) + constant.abs()
        worst, start = max(worst, float(reach.max())), start + len(rows)
    return worst


def _held(checkpoint: Checkpoint, examination: Examination, parameter: str) -> LazyTensor:
    return checkpoint[examination.names.on_disk(parameter)[0][0]]
