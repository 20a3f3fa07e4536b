"""A Llama or Arcee checkpoint as a GGUF file in float32, the format that llama.cpp reads.

Only what a native output can be, with a byte-level BPE tokenizer. The names and the layout of the
values are those of llama.cpp's architectures "llama" and "arcee" (GGUF specification,
github.com/ggml-org/ggml/blob/master/docs/gguf.md). Unlike llama.cpp's own converter it keeps a
LongRoPE table.
Raises UsageError for a checkpoint that the file could not express.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from normsurgery.errors import UsageError
from normsurgery.verify.sources import read_config, weight_files

_ARCHITECTURES = {"LlamaForCausalLM": "llama", "ArceeForCausalLM": "arcee"}
_ACTIVATIONS = {"llama": "silu", "arcee": "relu2"}  # llama.cpp reads no other from the file
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5  # GGUF's token types
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(directory: Path, path: Path) -> None:
    """Write the checkpoint in `directory` to the GGUF file `path`; needs the `gguf` package."""
    import gguf

    config = read_config(directory)
    writer = gguf.GGUFWriter(path, _architecture(config))
    try:
        _add_shape(writer, config)
        _add_tokenizer(writer, directory, config)
        for name, values in _tensors(directory, config).items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _architecture(config: dict[str, Any]) -> str:
    """llama.cpp's name for this configuration; UsageError where it would compute another model."""
    named = (config.get("architectures") or [""])[0]
    if named not in _ARCHITECTURES:
        raise UsageError(f"neither a Llama nor an Arcee: {named}", "convert --target native")
    architecture = _ARCHITECTURES[named]
    activation = config.get("hidden_act", _ACTIVATIONS[architecture])
    if activation != _ACTIVATIONS[architecture]:
        raise UsageError(f"llama.cpp's {architecture} has no activation {activation!r}")
    biased = config.get("attention_bias") or config.get("mlp_bias")
    if architecture == "arcee" and biased:
        raise UsageError("llama.cpp's arcee has no biases")
    return architecture


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(0)  # all float32


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    rope: dict[str, Any] = config.get("rope_parameters") or {}
    return {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0), **rope}


def _rope_factors(config: dict[str, Any]) -> np.ndarray | None:
    """What each frequency is divided by [head size / 2], or None for plain rotary positions.

    "longrope" with one list for every length is such a table; partial rotary is written with it.
    """
    rope = _rope(config)
    if rope["rope_type"] == "default":
        return None
    one_table = rope.get("short_factor") == rope.get("long_factor")
    if rope["rope_type"] == "longrope" and one_table and rope.get("attention_factor") in (1, None):
        return np.asarray(rope["short_factor"], dtype=np.float32)
    raise UsageError(f"no GGUF form for rope type {rope['rope_type']!r} with these parameters")


def _add_tokenizer(writer: Any, directory: Path, config: dict[str, Any]) -> None:
    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    before = tokenizer["pre_tokenizer"] or {}
    if tokenizer["model"]["type"] != "BPE" or before.get("type") != "ByteLevel":
        raise UsageError("only byte-level BPE has a GGUF form here")
    tokens = [f"<unused {i}>" for i in range(config["vocab_size"])]
    kinds = [_UNUSED] * len(tokens)
    for token, index in tokenizer["model"]["vocab"].items():
        tokens[index], kinds[index] = token, _NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], _CONTROL
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_add_bos_token(False)
    if config.get("eos_token_id") is not None:  # absent, llama.cpp takes GPT-2's number 11
        writer.add_eos_token_id(config["eos_token_id"])


def _tensors(directory: Path, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every tensor by its GGUF name, the rotary parts of q and k in llama.cpp's order."""
    heads = config["num_attention_heads"]
    counts = {"attn_q": heads, "attn_k": config.get("num_key_value_heads") or heads}
    out: dict[str, np.ndarray] = {}
    for file in weight_files(directory):
        with safe_open(file, framework="pt") as handle:
            for name in handle.keys():
                values = handle.get_tensor(name).float().numpy()
                target = _gguf_name(name)
                part = target.split(".")[-2]
                out[target] = _interleaved(values, counts[part]) if part in counts else values
    if (factors := _rope_factors(config)) is not None:
        out["rope_freqs.weight"] = factors
    return out


def _gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    if stem.startswith("model.layers."):
        index, part = stem.removeprefix("model.layers.").split(".", 1)
        if part in _PARTS:
            return f"blk.{index}.{_PARTS[part]}.{kind}"
    raise UsageError(f"no GGUF name for the tensor {name}")


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k [heads · size, …]: transformers rotates dimension i with i + size/2, llama.cpp
    2i with 2i + 1."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
