"""Tiny models whose blocks are dropped, moved, repeated and added: six blocks, of several kinds."""

from __future__ import annotations

from typing import Any

from tests.families import FAMILIES

DEPTH = 6
_TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": DEPTH,
    "intermediate_size": 40, "vocab_size": 99, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8}
_TWO: dict[str, Any] = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 4, "decoder_layers": 5,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 3,
}  # fmt: skip

Spec = tuple[str, str, dict[str, Any]]


def _deeper(family: str, key: str, depth: int = DEPTH) -> Spec:
    model, config, values = FAMILIES[family]
    return model, config, {**values, key: depth}


ZOO: dict[str, Spec] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _TEXT),
    "llama_biased": (
        "LlamaForCausalLM", "LlamaConfig", {**_TEXT, "attention_bias": True, "mlp_bias": True},
    ),
    "qwen2_window": (
        "Qwen2ForCausalLM", "Qwen2Config",
        {**_GROUPED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 3},
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _GROUPED),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig",
        {
            **_GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
            "mlp_only_layers": [1, 4],
        },
    ),
    "mixtral": (
        "MixtralForCausalLM", "MixtralConfig",
        {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "gpt_oss": (
        "GptOssForCausalLM", "GptOssConfig",
        {
            **_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "gemma2": (
        "Gemma2ForCausalLM", "Gemma2Config",
        {**_GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8},
    ),
    "gemma3": (
        "Gemma3ForCausalLM", "Gemma3TextConfig",
        {**_GROUPED, "sliding_window": 4, "sliding_window_pattern": 3, "query_pre_attn_scalar": 8},
    ),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _TEXT),
    "smollm3": (
        "SmolLM3ForCausalLM", "SmolLM3Config",
        {**_GROUPED, "no_rope_layer_interval": 3},
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _TEXT),
    "gpt2": _deeper("gpt2", "n_layer"),
    "gpt_neo": (
        "GPTNeoForCausalLM", "GPTNeoConfig",
        {
            "hidden_size": 48, "num_heads": 4, "num_layers": DEPTH, "vocab_size": 99,
            "attention_types": [[["global", "local"], 3]], "max_position_embeddings": 64,
            "window_size": 4, "bos_token_id": 1, "eos_token_id": 2,
        },
    ),
    "gpt_neox": _deeper("gpt_neox", "num_hidden_layers"),
    "falcon": _deeper("falcon_new", "num_hidden_layers"),
    "falcon_parallel": _deeper("falcon_old", "num_hidden_layers"),
    "cohere2": (
        "Cohere2ForCausalLM", "Cohere2Config",
        {**_GROUPED, "sliding_window": 4, "sliding_window_pattern": 3},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM", "DeepseekV3Config",
        {
            **_TEXT, "num_key_value_heads": 4, "first_k_dense_replace": 2, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16,
            "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
            "v_head_dim": 8, "n_shared_experts": 1,
        },
    ),
    "granite": (
        "GraniteForCausalLM", "GraniteConfig",
        {**_GROUPED, "residual_multiplier": 0.3, "attention_multiplier": 0.2},
    ),
    "opt": _deeper("opt", "num_hidden_layers"),
    "bloom": _deeper("bloom", "n_layer"),
    "vit": _deeper("vit", "num_hidden_layers"),
    "bert": _deeper("bert", "num_hidden_layers"),
    "whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig",
        {**_TWO, "max_source_positions": 20, "max_target_positions": 30},
    ),
    "t5": (
        "T5ForConditionalGeneration", "T5Config",
        {
            "vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 4,
            "num_decoder_layers": 5, "num_heads": 4, "decoder_start_token_id": 0,
        },
    ),
    "swin": (
        "SwinForImageClassification", "SwinConfig",
        {
            "image_size": 64, "embed_dim": 24, "depths": [2, 4], "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration", "Qwen2VLConfig",
        {
            "text_config": {
                **_GROUPED,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1],
                },
            },
            "vision_config": {"depth": 4, "embed_dim": 32, "hidden_size": 32, "num_heads": 4},
            "image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92,
            "vision_end_token_id": 93,
        },
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig",
        {
            "text_config": {
                **_GROUPED,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1],
                },
            },
            "vision_config": {
                "depth": DEPTH, "hidden_size": 32, "intermediate_size": 40, "num_heads": 4,
                "out_hidden_size": 32, "window_size": 56, "fullatt_block_indexes": [2, 5],
            },
            "image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92,
            "vision_end_token_id": 93,
        },
    ),
    "lfm2": (
        "Lfm2ForCausalLM", "Lfm2Config",
        {**_TEXT, "num_key_value_heads": 2, "full_attn_idxs": [2, 4]},
    ),
    "dinov2": _deeper("dinov2", "num_hidden_layers"),
    "llama4": (
        "Llama4ForCausalLM", "Llama4TextConfig",
        {
            **_GROUPED, "num_local_experts": 2, "intermediate_size_mlp": 40,
            "interleave_moe_layer_step": 2, "attention_chunk_size": 8,
        },
    ),
    "esm": _deeper("esm", "num_hidden_layers"),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration", "Qwen3VLConfig",
        {
            "text_config": {
                **_GROUPED,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1],
                },
            },
            "vision_config": {
                "depth": 4, "hidden_size": 32, "intermediate_size": 40, "num_heads": 4,
                "out_hidden_size": 32, "deepstack_visual_indexes": [1, 2],
            },
            "image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92,
            "vision_end_token_id": 93,
        },
    ),
}  # fmt: skip
