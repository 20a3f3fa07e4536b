"""The native mappings, one entry a row: what becomes what, under which conditions."""

from __future__ import annotations

from typing import Any

from normsurgery.native.conditions import (
    equals,
    heads_fill_the_width,
    off,
)
from normsurgery.native.mapping import Move, NativeMapping, Target

_LLAMA_FILLS = {
    r".*(_layernorm|model\.norm)\.weight": 1.0,
    r".*\.(self_attn|mlp)\.\w+_proj\.bias": 0.0,
}
LLAMA = Target(
    "Llama",
    flags={"attention_bias": r".*\.self_attn\..*\.bias", "mlp_bias": r".*\.mlp\..*\.bias"},
    fills=_LLAMA_FILLS,
)
ARCEE = Target(
    "Arcee", gated=False,
    flags={"attention_bias": r".*\.self_attn\..*\.bias", "mlp_bias": r".*\.mlp\..*\.bias"},
    fills=_LLAMA_FILLS,
)  # fmt: skip
ERNIE = Target(
    "Ernie4_5_Moe", rotary="interleaved", head_bias=True,
    flags={"use_bias": r".*\.bias"},
    fills={
        # an MLP without a gate in gated code: its projection is the gate, and the other factor is 1
        r".*\.mlp\.up_proj\.weight": 0.0, r".*\.mlp\.up_proj\.bias": 1.0,
        r"lm_head\.bias": 0.0, **_LLAMA_FILLS,
    },
    values={"moe_layer_start_index": 1 << 20, "moe_layer_end_index": 1 << 20},
)  # fmt: skip
MIXTRAL = Target("Mixtral")
EUROBERT = Target("EuroBert", flags=LLAMA.flags, fills=ERNIE.fills)
INTERNVL_VISION = Target(
    "InternVLVision", rotary="", gated=False, keeps_final=True, eps="layer_norm_eps",
    flags={"attention_bias": r".*\.attention\.[qkv]_proj\.bias"},
    fills={r".*\.lambda_[12]": 1.0, r".*\.[qkv]_proj\.bias": 0.0},
    values={"norm_type": "rms_norm", "use_mean_pooling": False, "use_qk_norm": False,
            "use_absolute_position_embeddings": True},
)  # fmt: skip

_KEEP = r"model\.(embed_tokens|norm|layers\.\d+\.(?:input|post_attention)_layernorm)\.weight"
_BACKBONE = (
    Move(_KEEP, r"model.\1.weight"),
    Move(
        r"model\.layers\.(\d+)\.self_attn\.([qkvo])_proj\.(weight|bias)",
        r"model.layers.\1.self_attn.\2_proj.\3",
    ),
    Move(r"(lm_head|score)\.(weight|bias)", r"\1.\2"),
)
_GATED = Move(
    r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.(weight|bias)",
    r"model.layers.\1.mlp.\2_proj.\3",
)


def _plain(up: str, down: str, *, into: Target) -> tuple[Move, ...]:
    """An MLP of two linears; in gated code the first is the gate."""
    first = "gate" if into.gated else "up"
    return (
        Move(rf"model\.layers\.(\d+)\.mlp\.{up}\.(weight|bias)",
             rf"model.layers.\1.mlp.{first}_proj.\2"),
        Move(rf"model\.layers\.(\d+)\.mlp\.{down}\.(weight|bias)",
             r"model.layers.\1.mlp.down_proj.\2"),
    )  # fmt: skip


def _olmo() -> NativeMapping:
    return NativeMapping("Olmo", LLAMA, (*_BACKBONE, _GATED), clip="clip_qkv")


def _stablelm(target: Target) -> NativeMapping:
    return NativeMapping(
        "StableLm", target, (*_BACKBONE, _GATED),
        conditions=(
            off("use_parallel_residual", "its blocks are parallel: attention and MLP read one norm"),
            off("qk_layernorm", "it normalizes queries and keys, which {target} does not"),
        ),
    )  # fmt: skip


def _starcoder2(target: Target) -> NativeMapping:
    return NativeMapping(
        "Starcoder2", target, (*_BACKBONE, *_plain("c_fc", "c_proj", into=target)),
        window="sliding_window",
    )  # fmt: skip


def _nemotron(target: Target) -> NativeMapping:
    return NativeMapping(
        "Nemotron", target, (*_BACKBONE, *_plain("up_proj", "down_proj", into=target)),
        conditions=(heads_fill_the_width,) if target is ERNIE else (),
    )  # fmt: skip


def _jais2(target: Target) -> NativeMapping:
    return NativeMapping(
        "Jais2", target, (*_BACKBONE, *_plain("up_proj", "down_proj", into=target)),
        conditions=(heads_fill_the_width,) if target is ERNIE else (),
    )  # fmt: skip


def _gpt_neox(target: Target) -> NativeMapping:
    first = "gate" if target.gated else "up"
    layer, to = r"gpt_neox\.layers\.(\d+)\.", r"model.layers.\1."
    return NativeMapping(
        "GPTNeoX",
        target,
        (
            Move(r"gpt_neox\.embed_in\.weight", "model.embed_tokens.weight"),
            Move(r"gpt_neox\.final_layer_norm\.weight", "model.norm.weight"),
            Move(layer + r"((?:input|post_attention)_layernorm)\.weight", to + r"\2.weight"),
            Move(layer + r"attention\.query_key_value\.(weight|bias)",
                 to + r"self_attn.{part}_proj.\2", "qkv_by_head"),
            Move(layer + r"attention\.dense\.(weight|bias)", to + r"self_attn.o_proj.\2"),
            Move(layer + r"mlp\.dense_h_to_4h\.(weight|bias)", to + rf"mlp.{first}_proj.\2"),
            Move(layer + r"mlp\.dense_4h_to_h\.(weight|bias)", to + r"mlp.down_proj.\2"),
            Move(r"(lm_head|score)\.(weight|bias)", r"\1.\2"),
        ),
        conditions=(off("use_parallel_residual", "its blocks are parallel (use_parallel_residual), "
                        "and {target}'s are sequential"),),
        heads=("ForCausalLM", "ForSequenceClassification", "Model"),
    )  # fmt: skip


def _dbrx() -> NativeMapping:
    block, to = r"transformer\.blocks\.(\d+)\.", r"model.layers.\1."
    experts = block + r"ffn\.experts\.mlp\."
    return NativeMapping(
        "Dbrx",
        MIXTRAL,
        (
            Move(r"transformer\.wte\.weight", "model.embed_tokens.weight"),
            Move(r"transformer\.norm_f\.weight", "model.norm.weight"),
            Move(block + r"norm_attn_norm\.norm_1\.weight", to + "input_layernorm.weight"),
            Move(block + r"norm_attn_norm\.norm_2\.weight", to + "post_attention_layernorm.weight"),
            Move(block + r"norm_attn_norm\.attn\.Wqkv\.weight", to + "self_attn.{part}_proj.weight",
                 "qkv_stacked"),
            Move(block + r"norm_attn_norm\.attn\.out_proj\.weight", to + "self_attn.o_proj.weight"),
            Move(block + r"ffn\.router\.layer\.weight", to + "block_sparse_moe.gate.weight"),
            Move(experts + "w1", to + "block_sparse_moe.experts.{part}.w1.weight", "experts"),
            Move(experts + "v1", to + "block_sparse_moe.experts.{part}.w3.weight", "experts"),
            Move(experts + "w2", to + "block_sparse_moe.experts.{part}.w2.weight",
                 "experts_transposed"),
            Move(r"lm_head\.weight", "lm_head.weight"),
        ),
        keys={
            "num_key_value_heads": "attn_config.kv_n_heads",
            "attention_dropout": "attn_config.attn_pdrop",
            "intermediate_size": "ffn_config.ffn_hidden_size",
            "num_local_experts": "ffn_config.moe_num_experts",
            "num_experts_per_tok": "ffn_config.moe_top_k",
            "router_aux_loss_coef": "ffn_config.moe_loss_weight",
            "hidden_act": "ffn_config.ffn_act_fn.name",
        },
        values={"sliding_window": None},
        conditions=(
            equals("ffn_config.moe_normalize_expert_weights", 1, "Mixtral divides the chosen "
                   "experts' weights by their sum"),
        ),
        clip="attn_config.clip_qkv",
        heads=("ForCausalLM", "Model"),
    )  # fmt: skip


_PATCHES = r"embeddings\.(cls_token|position_embeddings|patch_embeddings\.projection\.\w+)"


def _vision(source: str, prefix: str, layers: str, norms: tuple[str, str], **more: Any) -> NativeMapping:
    """A vision tower with a class token: norms that read the stream first, attention, MLP."""
    layer, to = rf"{prefix}\.{layers}\.(\d+)\.", r"internvl_vision.encoder.layer.\1."
    renames = (
        Move(rf"{prefix}\.{_PATCHES}", r"internvl_vision.embeddings.\1"),
        Move(rf"{prefix}\.layernorm\.(weight|bias)", r"internvl_vision.layernorm.\1"),
        Move(layer + rf"{norms[0]}\.weight", to + "layernorm_before.weight"),
        Move(layer + rf"{norms[1]}\.weight", to + "layernorm_after.weight"),
        Move(layer + r"attention\.([qkv])_proj\.(weight|bias)", to + r"attention.\2_proj.\3"),
        Move(layer + r"attention\.(?:o_proj|projection_layer)\.(weight|bias)",
             to + r"attention.projection_layer.\2"),
        Move(layer + r"mlp\.(fc[12])\.(weight|bias)", to + r"mlp.\2.\3"),
        *more.pop("moves", ()),
    )  # fmt: skip
    keys = {"attention_dropout": "attention_probs_dropout_prob"}
    return NativeMapping(
        source, INTERNVL_VISION, renames, keys=more.pop("keys", keys), heads=("Model",), **more
    )


def _vit() -> NativeMapping:
    return _vision(
        "ViT", "vit", "layers", ("layernorm_before", "layernorm_after"),
        values={"use_mask_token": False},
        dropped={r"vit\.pooler\..*": "the pooler, which InternVL's vision tower does not have"},
        lost=("pooler_output",),
    )  # fmt: skip


def _dinov2() -> NativeMapping:
    scales = r"dinov2\.encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1"
    return _vision(
        "Dinov2", "dinov2", r"encoder\.layer", ("norm1", "norm2"),
        moves=(
            Move(scales, r"internvl_vision.encoder.layer.\1.lambda_\2"),
            Move(r"dinov2\.embeddings\.mask_token", "internvl_vision.embeddings.mask_token",
                 "mask_token"),
        ),
        values={"intermediate_size": lambda config: int(config.hidden_size * config.mlp_ratio)},
        conditions=(off("use_swiglu_ffn", "its MLP is gated (use_swiglu_ffn), {target}'s is not"),),
        lost=("pooler_output",),
    )  # fmt: skip


def _internvl_vision() -> NativeMapping:
    """The same class: a flag, once the stream is centred."""
    return _vision(
        "InternVLVision", "internvl_vision", r"encoder\.layer",
        ("layernorm_before", "layernorm_after"),
        moves=(
            Move(r"(internvl_vision\.encoder\.layer\.\d+\.lambda_[12])", r"\1"),
            Move(r"(internvl_vision\.embeddings\.mask_token)", r"\1", "mask_token"),
        ),
        keys={},
        conditions=(
            off("use_qk_norm", "it normalizes queries and keys over all heads at once"),
            off("use_mean_pooling", "its output is the stream itself, mean included"),
        ),
    )  # fmt: skip


def _esm() -> NativeMapping:
    layer, to = r"esm\.encoder\.layer\.(\d+)\.", r"model.layers.\1."
    names = {"query": "q", "key": "k", "value": "v"}
    return NativeMapping(
        "Esm",
        EUROBERT,
        (
            Move(r"esm\.embeddings\.word_embeddings\.weight", "model.embed_tokens.weight",
                 "esm_table"),
            Move(r"esm\.encoder\.emb_layer_norm_after\.weight", "model.norm.weight"),
            Move(layer + r"attention\.LayerNorm\.weight", to + "input_layernorm.weight"),
            Move(layer + r"LayerNorm\.weight", to + "post_attention_layernorm.weight"),
            *(
                Move(layer + rf"attention\.self\.{name}\.(weight|bias)",
                     to + rf"self_attn.{letter}_proj.\2")
                for name, letter in names.items()
            ),
            Move(layer + r"attention\.output\.dense\.(weight|bias)", to + r"self_attn.o_proj.\2"),
            Move(layer + r"intermediate\.dense\.(weight|bias)", to + r"mlp.gate_proj.\2"),
            Move(layer + r"output\.dense\.(weight|bias)", to + r"mlp.down_proj.\2"),
            Move(r"classifier\.(weight|bias)", r"classifier.\1"),
        ),
        keys={"attention_dropout": "attention_probs_dropout_prob"},
        values={"hidden_act": "gelu"},
        dropped={
            r"esm\.contact_head\..*": "the contact head, which this class never calls",
            r"esm\.(?:.*\.)?rotary_embeddings\.inv_freq": "a table that code computes",
        },
        conditions=(
            equals("position_embedding_type", "rotary", "EuroBERT's positions are rotary"),
            off("emb_layer_norm_before", "it normalizes its embeddings"),
        ),
        heads=("ForTokenClassification",),
    )  # fmt: skip


MAPPINGS: tuple[NativeMapping, ...] = (
    _olmo(),
    _stablelm(LLAMA),
    _starcoder2(ARCEE),
    _nemotron(ARCEE),
    _jais2(ARCEE),
    _gpt_neox(ARCEE),
    _dbrx(),
    _vit(),
    _dinov2(),
    _internvl_vision(),
    _esm(),
    *(row(ERNIE) for row in (_stablelm, _starcoder2, _nemotron, _jais2, _gpt_neox)),
)
