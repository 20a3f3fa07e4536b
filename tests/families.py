"""Tiny random models of every family that the tests speak of, built in code and seeded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LAYERS = 3
_TEXT: dict[str, Any] = {
    "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": LAYERS,
    "intermediate_size": 100, "vocab_size": 99,
}  # fmt: skip
_IMAGE: dict[str, Any] = {
    "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": LAYERS,
    "intermediate_size": 100, "image_size": 32, "patch_size": 8,
}  # fmt: skip
_TWO_STACKS: dict[str, Any] = {
    "vocab_size": 99, "d_model": 48, "encoder_layers": LAYERS, "decoder_layers": LAYERS,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 100,
    "decoder_ffn_dim": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 3,
}  # fmt: skip
_GPT2: dict[str, Any] = {"n_layer": LAYERS, "n_embd": 48, "n_head": 4, "vocab_size": 99}
_HALF_ROTARY: dict[str, Any] = {
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
}
_IDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}

# name → (model class, configuration class, configuration)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {**_GPT2, **_IDS, "n_positions": 64}),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "hidden_size": 48, "num_heads": 4, "num_layers": 4, "vocab_size": 99,
            "attention_types": [[["global", "local"], 2]], "max_position_embeddings": 64, **_IDS,
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**_TEXT, "use_parallel_residual": True}),
    "gpt_neox_sequential": (
        "GPTNeoXForCausalLM", "GPTNeoXConfig", {**_TEXT, "use_parallel_residual": False},
    ),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", {**_GPT2, **_IDS, "rotary_dim": 4}),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": LAYERS,
            "ffn_dim": 100, "vocab_size": 99, "word_embed_proj_dim": 48,
        },
    ),
    "bloom": (
        "BloomForCausalLM", "BloomConfig",
        {"hidden_size": 48, "n_head": 4, "n_layer": LAYERS, "vocab_size": 99},
    ),
    "falcon_old": (
        "FalconForCausalLM",
        "FalconConfig",
        {
            "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": LAYERS,
            "vocab_size": 99, "ffn_hidden_size": 100,
        },
    ),
    "falcon_new": (
        "FalconForCausalLM",
        "FalconConfig",
        {
            "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": LAYERS,
            "vocab_size": 99, "new_decoder_architecture": True, "num_kv_heads": 2,
            "multi_query": False,
        },
    ),
    "falcon_alibi": (
        "FalconForCausalLM",
        "FalconConfig",
        {
            "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": LAYERS,
            "vocab_size": 99, "alibi": True, "bias": True, "multi_query": False,
            "parallel_attn": False,
        },
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", _TEXT),
    "phi_qk": ("PhiForCausalLM", "PhiConfig", {**_TEXT, "qk_layernorm": True}),
    "starcoder2": (
        "Starcoder2ForCausalLM", "Starcoder2Config", {**_TEXT, **_IDS, "num_key_value_heads": 2},
    ),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", {**_TEXT, **_HALF_ROTARY}),
    "stablelm_parallel": (
        "StableLmForCausalLM", "StableLmConfig",
        {**_TEXT, **_HALF_ROTARY, "use_parallel_residual": True, "qk_layernorm": True},
    ),
    "mpt": (
        "MptForCausalLM", "MptConfig",
        {"d_model": 48, "n_heads": 4, "n_layers": LAYERS, "vocab_size": 99, "max_seq_len": 64},
    ),
    "olmo": ("OlmoForCausalLM", "OlmoConfig", {**_TEXT, "eos_token_id": 2}),
    "cohere": ("CohereForCausalLM", "CohereConfig", {**_TEXT, **_IDS, "use_qk_norm": True}),
    "nemotron": (
        "NemotronForCausalLM", "NemotronConfig",
        {**_TEXT, "num_key_value_heads": 4, "head_dim": 12},
    ),
    "nemotron_biased": (
        "NemotronForCausalLM",
        "NemotronConfig",
        {
            **_TEXT, "num_key_value_heads": 4, "head_dim": 12, "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "codegen": ("CodeGenForCausalLM", "CodeGenConfig", {**_GPT2, **_IDS, "rotary_dim": 4}),
    "vit": ("ViTForImageClassification", "ViTConfig", _IMAGE),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", _IMAGE),
    "dinov2_swiglu": ("Dinov2Model", "Dinov2Config", {**_IMAGE, "use_swiglu_ffn": True}),
    "esm": (
        "EsmForMaskedLM",
        "EsmConfig",
        {
            **_TEXT, "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32,
            "position_embedding_type": "rotary", "token_dropout": True,
            "emb_layer_norm_before": False,
        },
    ),
    "whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig",
        {**_TWO_STACKS, "max_source_positions": 20, "max_target_positions": 30},
    ),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**_TEXT, "max_position_embeddings": 40, "eos_token_id": 2},
            "vision_config": {**_IMAGE, "hidden_size": 64},
        },
    ),
    "mbart": ("MBartForConditionalGeneration", "MBartConfig", _TWO_STACKS),
    "xglm": (
        "XGLMForCausalLM",
        "XGLMConfig",
        {
            "vocab_size": 99, "d_model": 48, "num_layers": LAYERS, "attention_heads": 4,
            "ffn_dim": 100, "max_position_embeddings": 64,
        },
    ),
    "pegasus_x": (
        "PegasusXForConditionalGeneration", "PegasusXConfig",
        {**_TWO_STACKS, "block_size": 4, "num_global_tokens": 2},
    ),
    "modernbert": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {
            **_TEXT, **_IDS, "pad_token_id": 0, "cls_token_id": 3, "sep_token_id": 4,
            "global_attn_every_n_layers": 2, "norm_bias": False,
        },
    ),
    "phimoe": (
        "PhimoeForCausalLM", "PhimoeConfig",
        {**_TEXT, **_IDS, "num_key_value_heads": 2, "num_local_experts": 4},
    ),
    "wav2vec2": (
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        {
            **_TEXT, "do_stable_layer_norm": True, "feat_extract_norm": "layer",
            "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4, "pad_token_id": 0,
        },
    ),
    "segformer": (
        "SegformerForImageClassification",
        "SegformerConfig",
        {
            "hidden_sizes": [16, 32, 48, 64], "depths": [2, 2, 2, 2], "image_size": 64,
            "num_attention_heads": [1, 2, 3, 4],
        },
    ),
    "swinv2": (
        "Swinv2ForImageClassification", "Swinv2Config",
        {
            "image_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    # refused
    "opt_350m": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": LAYERS,
            "ffn_dim": 100, "vocab_size": 99, "word_embed_proj_dim": 32,
            "do_layer_norm_before": False,
        },
    ),
    "bert": ("BertForMaskedLM", "BertConfig", _TEXT),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", _TEXT),
    "bart": ("BartForConditionalGeneration", "BartConfig", _TWO_STACKS),
    "swin": (
        "SwinForImageClassification", "SwinConfig",
        {
            "image_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    "convnext": (
        "ConvNextForImageClassification", "ConvNextConfig",
        {"hidden_sizes": [16, 32, 64, 128], "image_size": 64},
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _TEXT),
}  # fmt: skip

REFUSED = ("opt_350m", "bert", "roberta", "bart", "swin", "convnext", "llama")
EXACT = tuple(name for name in FAMILIES if name not in REFUSED)


def build(family: str, directory: Path, *, seed: int = 0, dtype: str = "float32") -> Any:
    """Build a tiny model with every parameter random, save it, and return it (eval, float32)."""
    return build_spec(FAMILIES[family], directory, seed=seed, dtype=dtype)


def build_spec(
    spec: tuple[str, str, dict[str, Any]], directory: Path, *, seed: int = 0, dtype: str = "float32"
) -> Any:
    """The same for (model class, configuration class, configuration)."""
    import torch
    import transformers

    from normsurgery.anatomy.runtime import quiet
    from normsurgery.anatomy.twin import randomize

    class_name, config_name, values = spec
    with quiet():
        config = getattr(transformers, config_name)(**values)
        model = getattr(transformers, class_name)(config).eval()
        randomize(model, seed=seed)
        model.to(getattr(torch, dtype)).save_pretrained(directory)
    return model.float()
