"""Low-rank adapters on every linear of the blocks, by peft, merged before anything is written.

Source: LoRA, arXiv 2106.09685; for healing a cut model, arXiv 2403.17887.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from normsurgery.errors import UnsupportedModelError, UsageError


def add_lora(model: Any, blocks: str, *, rank: int) -> Any:
    """The model with adapters of a rank on every linear under the module path `blocks`.

    Only the adapters train; scale alpha = 2 · rank, no dropout.
    Raises UsageError where peft is not installed, UnsupportedModelError where nothing is a linear.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UsageError("--train lora needs peft", "pip install normsurgery[train]") from None
    targets = linear_names(model, blocks)
    experts = stacked_names(model, blocks)
    if not targets and not experts:
        raise UnsupportedModelError(
            f"no linear lies in {blocks}, so there is nothing to put adapters on", "--train full"
        )
    transposed = any(isinstance(model.get_submodule(name), Conv1D) for name in targets)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets,
        target_parameters=experts or None, fan_in_fan_out=transposed,
    )  # fmt: skip
    with warnings.catch_warnings():
        # peft remarks on each module whose layout differs from fan_in_fan_out, and sets it right
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        return get_peft_model(model, config)


def merge_lora(adapted: Any) -> Any:
    """The model itself again, its linears the sum of what they were and what they learned.

    Raises SurgeryError through peft's own check where a merged weight would not be finite.
    """
    return adapted.merge_and_unload(safe_merge=True)


def adapted_weights(model: Any, blocks: str) -> list[str]:
    """Names of the parameters that merging changes, in the model without adapters."""
    return [f"{name}.weight" for name in linear_names(model, blocks)] + stacked_names(model, blocks)


def linear_names(model: nn.Module, blocks: str) -> list[str]:
    """Module names of the linears under a path, of either layout."""
    return [
        name
        for name, module in model.named_modules()
        if name.startswith(f"{blocks}.") and isinstance(module, nn.Linear | Conv1D)
    ]


def stacked_names(model: nn.Module, blocks: str) -> list[str]:
    """Parameters that stack the linears of several experts: [experts, …, …]."""
    return [
        name
        for name, parameter in model.named_parameters()
        if name.startswith(f"{blocks}.") and parameter.dim() == 3
    ]
