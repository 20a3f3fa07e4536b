"""Which engines a native output is expected to suit, from facts in its configuration alone.

Read in the engines' own sources: vLLM's Llama computes silu only and its Arcee relu² only, and
its loaders skip the biases that they do not know without a word. llama.cpp's Llama has silu and
optional biases, its Arcee relu² and none; its converter drops Llama's LongRoPE table.
"""

from __future__ import annotations

from typing import Any

_ACTIVATION = {"llama": "silu", "arcee": "relu2", "mixtral": "silu"}


def expected_engines(config: Any) -> list[str]:
    """transformers, and the engines whose class of this type computes this configuration."""
    engines = ["transformers"]
    if config.model_type not in _ACTIVATION or config.hidden_act != _ACTIVATION[config.model_type]:
        return engines
    biased = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope != "default" or (biased and config.model_type != "llama"):
        return engines
    return [*engines, "vllm", "llama.cpp"]
