"""The native mappings, one entry a row: what becomes what, under which conditions."""

from __future__ import annotations

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


MAPPINGS: tuple[NativeMapping, ...] = (
    _olmo(),
    _stablelm(LLAMA),
    _starcoder2(ARCEE),
    _nemotron(ARCEE),
    _jais2(ARCEE),
    _gpt_neox(ARCEE),
    _dbrx(),
    *(row(ERNIE) for row in (_stablelm, _starcoder2, _nemotron, _jais2, _gpt_neox)),
)
