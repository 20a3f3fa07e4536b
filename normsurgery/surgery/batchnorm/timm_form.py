"""timm's own inference form of a model with branches, in place of the trained one.

Contract: exact. FastViT, MobileOne, RepVGG and others of timm train parallel branches and have a
second form, `inference_mode`, that holds each block in one convolution. timm computes the one from
the other (`timm.utils.reparameterize_model`); a checkpoint of the second form opens in timm and in
transformers' wrapper by one key of its configuration. Works in float64, and holds the whole model
in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.twin import meta_model
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import CheckpointError
from normsurgery.surgery.batchnorm.switches import Switched
from normsurgery.surgery.receipt import Receipt, receipt_of
from normsurgery.surgery.set_parameters import FLOATING

_ARGUMENTS, _KEY = "model_args", "inference_mode"
_WRAPPER = "timm_model."


def timm_switch(examination: Examination) -> Switched | None:
    """The switch to timm's inference form; None where the model is not timm's, or has none."""
    model = examination.twin.model
    if not hasattr(model, _WRAPPER.rstrip(".")):
        return None
    try:
        other = meta_model(examination.model_class, _switched(examination.config.to_dict(), model))
    except CheckpointError:  # the architecture takes no such argument
        return None
    held = frozenset(other.state_dict())
    if held == frozenset(model.state_dict()):
        return None
    return Switched({(_ARGUMENTS, _KEY): True}, held)


def reparameterize(source: Checkpoint, examination: Examination) -> tuple[Checkpoint, Receipt]:
    """The checkpoint in timm's inference form, and the receipt.

    Only names and shapes are read now; the values are computed when the first of them is.
    """
    model = examination.twin.model
    other = meta_model(examination.model_class, _switched(source.config, model))
    plain = not any(name.startswith(_WRAPPER) for name in source)

    def on_disk(parameter: str) -> str:
        return parameter.removeprefix(_WRAPPER) if plain else parameter

    state = cache(partial(_reparameterized, source, examination, on_disk))
    held = {on_disk(name): (name, tuple(value.shape)) for name, value in other.state_dict().items()}
    spelled = next(tensor.dtype for tensor in source.values() if tensor.dtype in FLOATING)
    new = {
        name: LazyTensor.compute(
            partial(_rounded, state, parameter, FLOATING[spelled]), spelled, shape
        )
        for name, (parameter, shape) in held.items()
        if name not in source
    }
    result = source.add(new, beside=next(iter(source)))
    result = result.drop({name for name in source if name not in held})
    arguments = {**(source.config.get(_ARGUMENTS) or {}), _KEY: True}
    result = result.with_config({**source.config, _ARGUMENTS: arguments})
    counts = {
        side: {"x + shift": sum(name.endswith("running_var") for name in checkpoint)}
        for side, checkpoint in (("before", source), ("after", result))
    }
    return result, receipt_of("timm-inference-form", source, result, changed=(), norms=counts)


def _reparameterized(
    source: Checkpoint, examination: Examination, on_disk: Callable[[str], str]
) -> dict[str, Tensor]:
    """Every tensor of the inference form, in float64, by its name in the wrapper."""
    from timm.utils import reparameterize_model
    from transformers.initialization import no_init_weights

    model_class: Any = examination.model_class
    config = type(examination.config).from_dict(copy.deepcopy(source.config))
    with quiet(), no_init_weights():
        model = model_class(config).double().eval()
    own = model.state_dict()
    model.load_state_dict({name: source[on_disk(name)].load().to(own[name].dtype) for name in own})
    with torch.no_grad():
        model.timm_model = reparameterize_model(model.timm_model)
    found: dict[str, Tensor] = model.state_dict()
    return found


def _rounded(state: Callable[[], dict[str, Tensor]], name: str, dtype: torch.dtype) -> Tensor:
    return state()[name].to(dtype).contiguous()


def _switched(written: dict[str, Any], model: Any) -> Any:
    """The configuration with timm told to build its inference form."""
    arguments = {**(written.get(_ARGUMENTS) or {}), _KEY: True}
    return type(model.config).from_dict({**copy.deepcopy(written), _ARGUMENTS: arguments})
