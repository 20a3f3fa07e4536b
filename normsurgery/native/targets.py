"""The stock RMSNorm classes that a LayerNorm model can become, and what each needs."""

from __future__ import annotations

from normsurgery.native.mapping import Target

_BIAS_FLAGS = {"attention_bias": r".*\.self_attn\..*\.bias", "mlp_bias": r".*\.mlp\..*\.bias"}
_LLAMA_FILLS = {
    r".*(_layernorm|model\.norm)\.weight": 1.0,
    r".*\.(self_attn|mlp)\.\w+_proj\.bias": 0.0,
}
# An MLP without a gate in gated code: its projection is the gate, and the other factor is 1.
_NO_GATE_FILLS = {r".*\.mlp\.up_proj\.weight": 0.0, r".*\.mlp\.up_proj\.bias": 1.0}

LLAMA = Target("Llama", flags=_BIAS_FLAGS, fills=_LLAMA_FILLS)
ARCEE = Target("Arcee", gated=False, flags=_BIAS_FLAGS, fills=_LLAMA_FILLS)
# The dense form of the mixture: no layer is late enough to have experts.
ERNIE = Target(
    "Ernie4_5_Moe", rotary="interleaved", head_bias=True,
    flags={"use_bias": r".*\.bias"},
    fills={r"lm_head\.bias": 0.0, **_NO_GATE_FILLS, **_LLAMA_FILLS},
    values={"moe_layer_start_index": 1 << 20, "moe_layer_end_index": 1 << 20},
)  # fmt: skip
MIXTRAL = Target("Mixtral")
EUROBERT = Target(
    "EuroBert", flags=_BIAS_FLAGS, fills={**_NO_GATE_FILLS, **_LLAMA_FILLS},
)  # fmt: skip
IMAGEGPT = Target("ImageGPT", rotary="", gated=False, eps="layer_norm_epsilon")
INTERNVL_VISION = Target(
    "InternVLVision", rotary="", gated=False, keeps_final=True, eps="layer_norm_eps",
    flags={"attention_bias": r".*\.attention\.[qkv]_proj\.bias"},
    fills={r".*\.lambda_[12]": 1.0, r".*\.[qkv]_proj\.bias": 0.0},
    values={"norm_type": "rms_norm", "use_mean_pooling": False, "use_qk_norm": False,
            "use_absolute_position_embeddings": True},
)  # fmt: skip
