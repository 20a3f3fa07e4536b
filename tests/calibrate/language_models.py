"""Tiny causal language models of many families, and text for them."""

from __future__ import annotations

from typing import Any

import torch

from normsurgery.calibrate.text.rows import TextRows
from tests.families import FAMILIES

_TEXT: dict[str, Any] = {
    "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2,
    "head_dim": 12, "intermediate_size": 100, "vocab_size": 99, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_SLIDING: dict[str, Any] = {
    **_TEXT, "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
_EXPERTS: dict[str, Any] = {**_TEXT, "num_experts_per_tok": 2}

# name → (model class, configuration class, configuration)
LANGUAGE_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{
        name: FAMILIES[name]
        for name in (
            "gpt2", "gpt_neo", "gpt_neox", "gpt_neox_sequential", "opt", "bloom", "falcon_old",
            "falcon_new", "falcon_alibi", "mpt", "cohere", "stablelm_parallel",
            "gptj", "phimoe",
        )
    },
    "llama": ("LlamaForCausalLM", "LlamaConfig", _TEXT),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**_TEXT, "tie_word_embeddings": True}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig",
        {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 32, "mlp_only_layers": [1]},
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_EXPERTS, "num_local_experts": 4}),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", {**_SLIDING, "num_local_experts": 4}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_SLIDING, "query_pre_attn_scalar": 12}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**_SLIDING, "query_pre_attn_scalar": 12}),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _TEXT),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _TEXT),
    "cohere2": ("Cohere2ForCausalLM", "Cohere2Config", _SLIDING),
    "llama4": (
        "Llama4ForCausalLM", "Llama4TextConfig",
        {**_TEXT, "num_local_experts": 2, "intermediate_size_mlp": 64},
    ),
    "mamba": (
        "MambaForCausalLM", "MambaConfig",
        {"hidden_size": 48, "num_hidden_layers": 3, "vocab_size": 99, "state_size": 4},
    ),
    "granite": ("GraniteForCausalLM", "GraniteConfig", {**_TEXT, "residual_multiplier": 0.5}),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **{key: value for key, value in _TEXT.items() if key != "head_dim"},
            "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16,
            "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12,
            "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
            "moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_shared_experts": 1,
        },
    ),
}  # fmt: skip

# four streams side by side, and keys and values that later blocks borrow
SEVERAL_STREAMS = (
    "Gemma3nForCausalLM",
    "Gemma3nTextConfig",
    {
        **_SLIDING, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": 99,
        "hidden_size_per_layer_input": 8, "laurel_rank": 4, "intermediate_size": [100] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
)  # fmt: skip


def text_rows(*lengths: int, vocabulary: int = 99, seed: int = 0) -> TextRows:
    """Random rows of these lengths, right-padded."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(8, vocabulary, (n,), generator=generator).tolist() for n in lengths]
    return TextRows.of(rows, source="random")
