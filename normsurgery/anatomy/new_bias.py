"""Which linears of a model would add a bias if they were given one: asked of the modules."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.twin import Twin


def takes_new_bias(twin: Twin, modules: Collection[str]) -> set[str]:
    """Those of the named linears (without a bias) whose output moves by a bias that is set.

    A module that multiplies by a bare parameter (a stack of experts, a router) does not.
    """
    wanted = [name for name in modules if _is_open(twin.model.get_submodule(name))]
    calls: dict[str, tuple[Any, Any, Tensor]] = {}
    with ExitStack() as hooks:
        for name in wanted:
            module = twin.model.get_submodule(name)
            hook = module.register_forward_hook(_note(calls, name), with_kwargs=True)
            hooks.callback(hook.remove)
        with torch.random.fork_rng(devices=[]), torch.no_grad(), Float64():
            torch.manual_seed(0)
            twin.model(**twin.inputs)
    return {name for name in calls if _moves(twin.model.get_submodule(name), *calls[name])}


def _is_open(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2 and module.__dict__.get("bias") is None


def _note(calls: dict[str, tuple[Any, Any, Tensor]], name: str) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        if isinstance(result, Tensor):
            calls.setdefault(name, (args, dict(kwargs), result.detach().clone()))

    return hook


def _moves(module: nn.Module, args: Any, kwargs: Mapping[str, Any], before: Tensor) -> bool:
    """Whether the output moves by exactly the bias. module: is left as it was."""
    bias = torch.linspace(1, 2, before.shape[-1], dtype=before.dtype)
    held = module._parameters.get("bias")
    absent = "bias" not in module._parameters
    module._parameters["bias"] = nn.Parameter(bias, requires_grad=False)
    try:
        with torch.no_grad(), Float64():
            after = module(*args, **kwargs)
    except (RuntimeError, TypeError):
        return False
    finally:
        if absent:
            del module._parameters["bias"]
        else:
            module._parameters["bias"] = held
    return bool(torch.allclose(after - before, bias.expand_as(before), rtol=1e-9, atol=1e-9))
