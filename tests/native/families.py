"""Tiny random models of every family that has a native target."""

from __future__ import annotations

from typing import Any

LAYERS = 3
_TEXT: dict[str, Any] = {
    "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": LAYERS,
    "intermediate_size": 112, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 640,
}  # fmt: skip


_IMAGE: dict[str, Any] = {
    "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": LAYERS,
    "intermediate_size": 112, "image_size": 32, "patch_size": 8,
}  # fmt: skip


def rope(share: float) -> dict[str, Any]:
    """Rotary parameters of which only a share of every head is turned."""
    return {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": share}


_HALF = {"num_key_value_heads": 2, "rope_parameters": rope(0.5)}

# name → (model class, configuration class, configuration)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "olmo": ("OlmoForCausalLM", "OlmoConfig", {**_TEXT, "num_key_value_heads": 2}),
    "olmo_tied": ("OlmoForCausalLM", "OlmoConfig", {**_TEXT, "tie_word_embeddings": True}),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", {**_TEXT, **_HALF, "use_qkv_bias": True}),
    "starcoder2": (
        "Starcoder2ForCausalLM", "Starcoder2Config", {**_TEXT, "num_key_value_heads": 2},
    ),
    "nemotron": ("NemotronForCausalLM", "NemotronConfig", {**_TEXT, **_HALF, "head_dim": 12}),
    "jais2": ("Jais2ForCausalLM", "Jais2Config", _TEXT),
    "gpt_neox": (
        "GPTNeoXForCausalLM", "GPTNeoXConfig", {**_TEXT, "use_parallel_residual": False,
                                                "rope_parameters": rope(0.5)},
    ),
    "gpt_neox_japanese": (
        "GPTNeoXJapaneseForCausalLM", "GPTNeoXJapaneseConfig",
        {**_TEXT, "intermediate_multiple_size": 3, "rope_parameters": rope(0.5)},
    ),
    "persimmon": (
        "PersimmonForCausalLM", "PersimmonConfig",
        {**_TEXT, "rope_parameters": rope(0.5), "qk_layernorm": False},
    ),
    "vit_msn": ("ViTMSNModel", "ViTMSNConfig", _IMAGE),
    "vit": ("ViTModel", "ViTConfig", _IMAGE),
    "dinov2": ("Dinov2Model", "Dinov2Config", _IMAGE),
    "internvl_vision": (
        "InternVLVisionModel", "InternVLVisionConfig", {**_IMAGE, "use_mean_pooling": False},
    ),
    "esm": (
        "EsmForTokenClassification",
        "EsmConfig",
        {
            **_TEXT, "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "bos_token_id": None,
            "position_embedding_type": "rotary", "token_dropout": True,
            "emb_layer_norm_before": False, "num_labels": 7,
        },
    ),
    "dbrx": (
        "DbrxForCausalLM",
        "DbrxConfig",
        {
            "d_model": 48, "n_heads": 4, "n_layers": LAYERS, "vocab_size": 99, "max_seq_len": 640,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 20, "rope_theta": 1e4},
            "ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
}  # fmt: skip
