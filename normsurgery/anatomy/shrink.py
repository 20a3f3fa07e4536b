"""Shrink a configuration: same flags, same depth, tiny widths, vocabulary and images.

Every layer of the real model stands in the twin, so that names correspond one to one and a block
that differs from its neighbours (a list in the config, a rule in the code) is traced as it is.
Ratios that code depends on are kept: queries per key-value head, the rotary share of a head,
widths that equal the hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normsurgery.anatomy.agreement import agree, divide_pictures
from normsurgery.anatomy.pictures import shrink_pictures

HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
    "decoder_attention_heads", "attention_heads", "num_self_attention_heads",
    "num_cross_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads",
)  # fmt: skip
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads")
HIDDEN = (
    "hidden_size", "n_embd", "d_model", "embed_dim", "dim", "d_latents", "upsample_groups",
    "emb_dim",
)  # fmt: skip
INNER = (
    "intermediate_size", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim",
    "ffn_hidden_size",
)  # fmt: skip
POSITIONS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions",
)  # fmt: skip
DEPTHS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
    "layers", "num_self_attends_per_block", "num_encoder_layers", "num_decoder_layers",
)  # fmt: skip
VOCABULARY, TWIN_VOCABULARY = "vocab_size", 160
HEAD_DIM, TWIN_HEAD_DIM = "head_dim", 16
TWIN_POSITIONS, TWIN_FRAMES, TWIN_PROJECTION, TWIN_LATENTS, TWIN_QUERIES = 64, 16, 24, 4, 12
# Counts and lengths that are capped, each on its own.
_CAPS = {
    **dict.fromkeys(POSITIONS, TWIN_POSITIONS), "max_source_positions": TWIN_FRAMES,
    "latent_query_num": TWIN_LATENTS, "num_queries": TWIN_QUERIES,
    "two_stage_num_proposals": TWIN_QUERIES, "context_size": TWIN_POSITIONS,
}  # fmt: skip
WINDOWS = ("sliding_window", "attention_chunk_size")
_LABELS = ("id2label", "label2id")
_TOKEN = ("token_id", "token_index")
_DEPTH_LISTS = ("out_features", "indices")
_TAP = "vision_feature_layer"
_STAGES = ("stage_names", "out_features", "out_indices")
# Windows must still tile the image; SAM's encoders of picture and prompt must agree on it.
_TILED = ("window_size", "mask_input_channels")
# What BROS and EfficientLoFTR compute from other widths, unless it is said.
_DERIVED = ("dim_bbox_", "stage_block_", "fine_fusion_dims")
_MASKS = "mask_loss_coefficient"  # of DETR's kind with a head for masks
_STEM = "stem_out_channels"
_PROMPTED = ("prompt_encoder_config", "detr_encoder_config")
# Lists of token ids that only generation reads.
_ID_LISTS = ("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids", "bad_words_ids")


def shrink(
    config: Mapping[str, Any], *, depth: int | None = None, window: int | None = None
) -> dict[str, Any]:
    """A tiny copy of a configuration dictionary (with defaults filled in); nested ones too.

    depth: blocks to keep of each stack; None keeps all. window: what attention windows are capped
    at; None keeps them.
    """
    tiny = _shrunk(config, depth)
    if window is not None:
        _cap_windows(tiny, window)
    agree(config, tiny, HIDDEN)
    if any(key in tiny for key in _PROMPTED):
        divide_pictures(tiny, 4, above=512)
    return tiny


def _cap_windows(tiny: dict[str, Any], window: int) -> None:
    for key, value in tiny.items():
        if isinstance(value, dict):
            _cap_windows(value, window)
        elif key in WINDOWS and isinstance(value, int) and not isinstance(value, bool):
            tiny[key] = min(value, window)


def _shrunk(config: Mapping[str, Any], depth: int | None) -> dict[str, Any]:
    tiny: dict[str, Any] = dict(config)
    tapped = _taps_several_layers(config)
    for key, value in config.items():
        if isinstance(value, Mapping) and _is_config(value):
            tiny[key] = _shrunk(value, None if tapped and key == "vision_config" else depth)
    if depth is not None:
        _shrink_depth(tiny, depth)
    _shrink_widths(tiny)
    _shrink_width_lists(tiny)
    _shrink_vocabulary(tiny)
    for key, cap in _CAPS.items():
        if isinstance(tiny.get(key), int):
            tiny[key] = min(tiny[key], cap)
    if isinstance(tiny.get("projection_dim"), int) and tiny["projection_dim"] > 0:
        if not _is_a_width(tiny, tiny["projection_dim"]):
            tiny["projection_dim"] = TWIN_PROJECTION
    if not any(key in tiny for key in _TILED):
        shrink_pictures(tiny)
    return tiny


def _is_a_width(tiny: Mapping[str, Any], size: int) -> bool:
    """Whether a part hands out its features this wide as they are, unprojected."""
    parts = [value for value in tiny.values() if isinstance(value, Mapping)]
    return any(part.get("hidden_dim") == size for part in parts)


def _taps_several_layers(config: Mapping[str, Any]) -> bool:
    """Whether features of the picture are taken at several depths of its tower."""
    parts = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    taps = [value for part in parts for key, value in part.items() if _TAP in str(key)]
    return any(isinstance(value, list | tuple) for value in taps)


def _is_config(value: Mapping[str, Any]) -> bool:
    return "model_type" in value or any(key in value for key in HIDDEN)


def _shrink_depth(tiny: dict[str, Any], depth: int) -> None:
    """Keep the first blocks, one of every kind at least; lists with an entry a block follow.

    A backbone whose outputs are taken at several depths keeps all of them.
    """
    depths = [value for key, value in tiny.items() if key.endswith(_DEPTH_LISTS)]
    if any(isinstance(value, list) and len(value) > 1 for value in depths):
        return
    full = {tiny[key] for key in DEPTHS if isinstance(tiny.get(key), int)}
    lists = {key: value for key, value in tiny.items() if _is_by_block(key, value, full)}
    depth = max([depth, *map(_first_of_every_kind, lists.values())])
    tiny.update({key: value[:depth] for key, value in lists.items()})
    tiny.update({key: min(tiny[key], depth) for key in DEPTHS if isinstance(tiny.get(key), int)})
    for key, value in tiny.items():
        if isinstance(value, Mapping) and value and all(str(k).isdigit() for k in value):
            kept = {k: v for k, v in value.items() if int(k) < depth or key in _LABELS}
            tiny[key] = kept or value  # numbers of patches are no depths
    for key in _STAGES:  # a backbone names its outputs by their depth; its own default follows
        if key == "out_indices" or not _are_widths(tiny.get(key)):
            tiny.pop(key, None)


def _are_widths(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 8 for item in value)


def _is_by_block(key: str, value: Any, depths: set[int]) -> bool:
    shape = key.endswith(("_token_id", "_ids", "_size", "_sizes"))
    return isinstance(value, list) and len(value) in depths and not shape


def _first_of_every_kind(entries: list[Any]) -> int:
    """How many of the first entries show every kind that there is."""
    return max(entries.index(entry) for entry in entries) + 1


def _shrink_widths(tiny: dict[str, Any]) -> None:
    heads, hidden = _first(tiny, HEADS), _first(tiny, HIDDEN)
    if heads is None or hidden is None:
        return
    head_dim = _first(tiny, (HEAD_DIM,)) or hidden // heads
    new_heads, new_key_value = _few_heads(heads, _first(tiny, KEY_VALUE_HEADS) or heads)
    if "max_2d_position_embeddings" in tiny and heads % 3 == 0:  # a box shares out the width by 6
        new_heads = new_key_value = 3
    if _MASKS in tiny and heads % 8 == 0:  # its maps of attention join the width, in groups of 8
        new_heads = new_key_value = 8
    # A hidden width that is not heads × head_dim stays one that is not.
    width = new_heads * TWIN_HEAD_DIM + (0 if heads * head_dim == hidden else 8)
    sizes = {
        **dict.fromkeys(HEADS, new_heads),
        **dict.fromkeys(KEY_VALUE_HEADS, new_key_value),
        **dict.fromkeys(HIDDEN, width),
        **dict.fromkeys(INNER, 2 * width + 8),
        HEAD_DIM: TWIN_HEAD_DIM,
        "d_head": TWIN_HEAD_DIM,
        "rotary_dim": max(2, 2 * ((tiny.get("rotary_dim") or 0) * TWIN_HEAD_DIM // head_dim // 2)),
        "word_embed_proj_dim": (tiny.get("word_embed_proj_dim") or 0) * width // hidden,
    }
    latent = [tiny.get(key) for key in ("qk_rope_head_dim", "qk_nope_head_dim")]
    if isinstance(latent[0], int) and tiny.get(HEAD_DIM) in (latent[0], sum(filter(None, latent))):
        del sizes[HEAD_DIM]  # latent attention: not a width of its own
    if "num_mel_bins" in tiny and tiny.get("intermediate_size") == 4 * hidden:
        sizes["intermediate_size"] = 4 * width  # Voxtral stacks as many frames as fill it
    embedding = tiny.get("embedding_size")
    if isinstance(embedding, int) and embedding < hidden:  # a factored embedding stays one
        sizes["embedding_size"] = max(8, embedding * width // hidden)
    sizes |= {key: 1 for key in HEADS if tiny.get(key) == 1}  # of a width that no other divides
    tiny.update({key: size for key, size in sizes.items() if isinstance(tiny.get(key), int)})
    for key in [key for key in tiny if key.startswith(_DERIVED)]:
        del tiny[key]
    _shrink_rope(tiny, new_heads / heads)


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def _few_heads(heads: int, key_value: int) -> tuple[int, int]:
    """A small (heads, key-value heads) with the same kind of sharing: none, grouped or one."""
    few = 4 if heads % 4 == 0 else min(heads, 3)
    if key_value == heads:
        return few, few
    if key_value == 1:
        return few, 1
    return 4, 2


def _shrink_rope(tiny: dict[str, Any], of_heads: float) -> None:
    """of_heads: the share of the heads that is left, for a rotation of several heads at once."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = tiny.get(key)
        if not isinstance(rope, Mapping):
            continue
        share = rope.get("partial_rotary_factor") or tiny.get("partial_rotary_factor") or 1.0
        if share > 1:
            tiny["partial_rotary_factor"] = share = share * of_heads
            rope = {**rope, "partial_rotary_factor": share}
        if any(isinstance(value, Mapping) for value in rope.values()):  # one for each layer type
            tiny[key] = {
                kind: _shrunk_rope(own, share) if isinstance(own, Mapping) else own
                for kind, own in rope.items()
            }
        else:
            tiny[key] = _shrunk_rope(rope, share)


def _shrunk_rope(rope: Mapping[str, Any], default_share: float) -> dict[str, Any]:
    share = rope.get("partial_rotary_factor", default_share) or 1.0
    frequencies = int(TWIN_HEAD_DIM * share) // 2
    tiny = {k: v[:frequencies] if isinstance(v, list) else v for k, v in rope.items()}
    sections = rope.get("mrope_section")
    if isinstance(sections, list):  # frequencies for time, height and width
        rest = [max(1, size * frequencies // sum(sections)) for size in sections[1:]]
        tiny["mrope_section"] = [frequencies - sum(rest), *rest]
    return tiny


def _shrink_width_lists(tiny: dict[str, Any]) -> None:
    """Pyramids (Swin, ConvNeXt): divide every stage's width by the same factor."""
    widths, heads = tiny.get("hidden_sizes"), tiny.get("num_heads")
    if "stage_out_channels" in tiny:  # HGNet: four more lists and its stem depend on each other
        return
    if isinstance(widths, list) and widths and all(isinstance(w, int) for w in widths):
        factor = max(1, widths[0] // 16)
        if all(width % factor == 0 for width in widths):
            tiny["hidden_sizes"] = [width // factor for width in widths]
            if tiny.get(_STEM) == widths[0]:
                tiny[_STEM] = widths[0] // factor
    if isinstance(heads, list) and isinstance(tiny.get("embed_dim"), int):
        stages = len(heads)
        tiny["embed_dim"] = 8 * heads[0]
        if "hidden_size" in tiny:
            tiny["hidden_size"] = tiny["embed_dim"] * 2 ** (stages - 1)


def _shrink_vocabulary(tiny: dict[str, Any]) -> None:
    own = isinstance(tiny.get(VOCABULARY), int)
    nested = [v[VOCABULARY] for v in tiny.values() if isinstance(v, Mapping) and VOCABULARY in v]
    sizes = [tiny[VOCABULARY]] if own else [size for size in nested if isinstance(size, int)]
    if not sizes:
        return
    size = min(*sizes, TWIN_VOCABULARY)
    if own:
        tiny[VOCABULARY] = size
    last = size - 1 if own else size - 9  # clear of the special ids of the nested vocabulary
    moved: dict[int, int] = {}
    for key, value in tiny.items():
        if key.endswith(_TOKEN) and isinstance(value, int) and value >= size:
            tiny[key] = moved.setdefault(value, last - len(moved))
        elif key.endswith("token_id") and isinstance(value, list):
            tiny[key] = [min(item, size - 1) for item in value]
    for key in _ID_LISTS:
        if key in tiny:
            tiny[key] = None
