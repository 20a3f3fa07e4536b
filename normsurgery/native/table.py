"""The native mappings of text models, one function a row, and the whole table."""

from __future__ import annotations

from typing import Any

from normsurgery.native.conditions import equals, heads_fill_the_width, off
from normsurgery.native.mapping import Move, NativeMapping, Target
from normsurgery.native.targets import ARCEE, ERNIE, EUROBERT, IMAGEGPT, LLAMA, MIXTRAL
from normsurgery.native.vision import VISION

_QUERY_KEY_NORMS = "it normalizes queries and keys (qk_layernorm), which {target} does not"
_PARALLEL = "its blocks are parallel (use_parallel_residual), and {target}'s are sequential"
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
            off("use_parallel_residual", _PARALLEL),
            off("qk_layernorm", _QUERY_KEY_NORMS),
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


def _fused(
    source: str,
    target: Target,
    prefix: str,
    attention: str,
    *,
    table: str,
    final: str,
    more: tuple[Move, ...] = (),
    **conditions: Any,
) -> NativeMapping:
    """GPT-NeoX and its kin: queries, keys and values in one matrix, head by head.

    prefix: of the base model. attention, table, final: what the family calls them.
    """
    first = "gate" if target.gated else "up"
    layer, to = rf"{prefix}\.layers\.(\d+)\.", r"model.layers.\1."
    moves = (
        Move(rf"{prefix}\.{table}\.weight", "model.embed_tokens.weight"),
        Move(rf"{prefix}\.{final}\.weight", "model.norm.weight"),
        Move(layer + r"((?:input|post_attention)_layernorm)\.weight", to + r"\2.weight"),
        Move(
            layer + rf"{attention}\.query_key_value\.(weight|bias)",
            to + r"self_attn.{part}_proj.\2",
            "qkv_by_head",
        ),
        Move(layer + rf"{attention}\.dense\.(weight|bias)", to + r"self_attn.o_proj.\2"),
        Move(layer + r"mlp\.dense_h_to_4h\.(weight|bias)", to + rf"mlp.{first}_proj.\2"),
        Move(layer + r"mlp\.dense_4h_to_h\.(weight|bias)", to + r"mlp.down_proj.\2"),
        Move(r"(lm_head|score)\.(weight|bias)", r"\1.\2"),
        Move(r"embed_out\.(weight|bias)", r"lm_head.\1"),
        *more,
    )
    heads = ("ForCausalLM", "ForSequenceClassification", "Model")
    return NativeMapping(source, target, moves, heads=heads, **conditions)


def _gpt_neox(target: Target) -> NativeMapping:
    return _fused(
        "GPTNeoX", target, "gpt_neox", "attention", table="embed_in", final="final_layer_norm",
        conditions=(off("use_parallel_residual", _PARALLEL),),
    )  # fmt: skip


def _gpt_neox_japanese(target: Target) -> NativeMapping:
    """The last block's attention adds its output bias by hand, and the MLPs have none."""
    bias = Move(r"gpt_neox_japanese\.layers\.(\d+)\.attention\.dense_bias",
                r"model.layers.\1.self_attn.o_proj.bias")  # fmt: skip
    inner = lambda config: int(config.hidden_size * config.intermediate_multiple_size)  # noqa: E731
    return _fused(
        "GPTNeoXJapanese", target, "gpt_neox_japanese", "attention",
        table="embed_in", final="final_layer_norm", more=(bias,),
        values={"intermediate_size": inner},
    )  # fmt: skip


def _persimmon(target: Target) -> NativeMapping:
    return _fused(
        "Persimmon", target, "model", "self_attn", table="embed_tokens", final="final_layernorm",
        conditions=(off("qk_layernorm", _QUERY_KEY_NORMS),),
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


def _gpt2() -> NativeMapping:
    """The base model only: ImageGPT's head has one row less than its table."""
    names = r"(transformer\.(?:w[tp]e|ln_f|h\.\d+\.(?:ln_[12]|attn\.c_\w+|mlp\.c_\w+))\.\w+)"
    return NativeMapping("GPT2", IMAGEGPT, (Move(names, r"\1"),), heads=("Model",))


# Classes that more than one target fits, the engines' favourite first.
_TWICE = (_starcoder2, _nemotron, _jais2, _gpt_neox, _gpt_neox_japanese, _persimmon)
MAPPINGS: tuple[NativeMapping, ...] = (
    _olmo(),
    _stablelm(LLAMA),
    *(row(ARCEE) for row in _TWICE),
    _dbrx(),
    *(row(ERNIE) for row in (_stablelm, *_TWICE)),
    _esm(),
    _gpt2(),
    *VISION,
)
