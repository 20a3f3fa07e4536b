"""Tiny models for the tests of norms: real ones, examined once a session, and their inputs."""

from __future__ import annotations

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.inputs import example_inputs
from normsurgery.checkpoint import open_checkpoint
from tests.families import FAMILIES, build_spec

_GROUPED: dict[str, Any] = {
    "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "intermediate_size": 100, "vocab_size": 99,
}  # fmt: skip
_IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# what FAMILIES does not have: (model class, configuration class, configuration)
SPECS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama_grouped": ("LlamaForCausalLM", "LlamaConfig", _GROUPED),
    "qwen3": (
        "Qwen3ForCausalLM", "Qwen3Config", {**_GROUPED, "head_dim": 12, "max_window_layers": 2},
    ),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_GROUPED, "head_dim": 12}),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", {**_GROUPED, **_IDS}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**_GROUPED, **_IDS}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_GROUPED, "num_local_experts": 4}),
    "bigcode": (
        "GPTBigCodeForCausalLM", "GPTBigCodeConfig",
        {"n_embd": 48, "n_head": 4, "n_layer": 2, "vocab_size": 99},
    ),
}  # fmt: skip


@functools.cache
def _made(family: str) -> tuple[Any, Examination]:
    spec = SPECS[family] if family in SPECS else FAMILIES[family]
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch, family)
        model = build_spec(spec, directory)
        return model, examine(open_checkpoint(directory))


def examination(family: str) -> Examination:
    return _made(family)[1]


def fresh(family: str, dtype: torch.dtype = torch.float64, attention: str = "") -> Any:
    """A copy of the family's tiny random model, eval."""
    model = copy.deepcopy(_made(family)[0]).to(dtype)
    if attention:
        model.set_attn_implementation(attention)
    if "experts_implementation" in str(vars(model.config)):
        model.set_experts_implementation("eager")  # the grouped kernel knows no float64
    return model.eval()


def inputs(model: Any, *, length: int = 9, seed: int = 3) -> dict[str, Tensor]:
    return example_inputs(model, batch=2, length=length, seed=seed)


def run(model: Any, given: dict[str, Tensor]) -> Tensor:
    """The model's first output; in float64 nothing in it is rounded to float32."""
    if next(model.parameters()).dtype != torch.float64:
        plain: Tensor = model(**given)[0]
        return plain
    with Float64():
        exact: Tensor = model(**given)[0]
    return exact


def token_ids(count: int = 12, batch: int = 2, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(3, 90, (batch, count), generator=draw)


def checkpointed(model: Any, **options: Any) -> None:
    """Turn gradient checkpointing on; transformers 5.2x renamed it, and the old name warns."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)(options or None)


def training(model: Any) -> None:
    """In training mode, without the dropout of the class's defaults."""
    model.train()
    model.config.use_cache = False
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
