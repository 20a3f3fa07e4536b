"""Low-rank adapters on every linear of the blocks, by peft, merged before anything is written.

Source: LoRA, arXiv 2106.09685; for healing a cut model, arXiv 2403.17887.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from normsurgery.errors import UnsupportedModelError, UsageError


def add_lora(model: Any, targets: list[str], stacked: list[str], *, rank: int) -> Any:
    """The model with adapters of a rank on linears (modules) and on stacked experts (parameters).

    Only the adapters train; scale alpha = 2 · rank, no dropout.
    Raises UsageError where peft is not installed, UnsupportedModelError where nothing is a linear.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UsageError("--train lora needs peft", "pip install normsurgery[train]") from None
    if not targets and not stacked:
        raise UnsupportedModelError(
            "no linear lies in the blocks, so there is nothing to put adapters on", "--train full"
        )
    transposed = any(isinstance(model.get_submodule(name), Conv1D) for name in targets)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets,
        target_parameters=stacked or None, fan_in_fan_out=transposed,
    )  # fmt: skip
    with warnings.catch_warnings():
        # peft remarks on each module whose layout differs from fan_in_fan_out, and sets it right
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        warnings.simplefilter("ignore", FutureWarning)  # peft still asks by an old name
        return get_peft_model(model, config)


def merge_lora(adapted: Any) -> Any:
    """The model itself again, its linears the sum of what they were and what they learned.

    Raises SurgeryError through peft's own check where a merged weight would not be finite.
    """
    return adapted.merge_and_unload(safe_merge=True)


def linear_names(model: nn.Module, blocks: str, twin: nn.Module) -> list[str]:
    """Module names of the linears under a path.

    twin: the same model, tiny and with values: a class counts as a linear if on the twin its
    modules compute one. (A router may be one by its class and return a choice of experts.)
    """
    linear = {type(module): _is_linear(module) for module in _linears(twin).values()}
    return [
        name
        for name, module in _linears(model).items()
        if name.startswith(f"{blocks}.") and linear.get(type(module), False)
    ]


def stacked_names(model: nn.Module, blocks: str) -> list[str]:
    """Parameters that stack the linears of several experts: [experts, …, …]."""
    return [
        name
        for name, parameter in model.named_parameters()
        if name.startswith(f"{blocks}.") and parameter.dim() == 3
    ]


def _linears(model: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    named = model.named_modules()
    return {name: module for name, module in named if isinstance(module, nn.Linear | Conv1D)}


def _is_linear(module: nn.Linear | Conv1D) -> bool:
    """Whether it returns its argument times its weight plus its bias."""
    weight = module.weight.detach()
    weight = weight if isinstance(module, Conv1D) else weight.T
    given = torch.linspace(-1, 1, 2 * len(weight), dtype=weight.dtype).view(2, -1)
    wanted = given @ weight + (0 if module.bias is None else module.bias.detach())
    with torch.no_grad():
        found = module(given)
    return isinstance(found, torch.Tensor) and torch.allclose(found, wanted)
