"""Vision towers: rows of the native table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normsurgery.native.conditions import off
from normsurgery.native.mapping import Move, NativeMapping
from normsurgery.native.targets import INTERNVL_VISION

_PATCHES = r"embeddings\.(cls_token|position_embeddings|patch_embeddings\.projection\.\w+)"


def _tower(
    source: str,
    prefix: str,
    layers: str,
    norms: tuple[str, str],
    moves: tuple[Move, ...] = (),
    keys: Mapping[str, str] | None = None,
    **more: Any,
) -> NativeMapping:
    """A vision tower with a class token: two norms, attention, a plain MLP, a last norm.

    prefix: of the base model. layers: its list of blocks. norms: names before attention and MLP.
    moves: what else there is. keys: None for those of ViT's configuration.
    """
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
        *moves,
    )  # fmt: skip
    keys = {"attention_dropout": "attention_probs_dropout_prob"} if keys is None else keys
    return NativeMapping(source, INTERNVL_VISION, renames, keys=keys, heads=("Model",), **more)


def _vit() -> NativeMapping:
    return _tower(
        "ViT", "vit", "layers", ("layernorm_before", "layernorm_after"),
        values={"use_mask_token": False},
        dropped={r"vit\.pooler\..*": "the pooler, which InternVL's vision tower does not have"},
        lost=("pooler_output",),
    )  # fmt: skip


def _vit_msn() -> NativeMapping:
    return _tower(
        "ViTMSN", "vit", "layers", ("layernorm_before", "layernorm_after"),
        values={"use_mask_token": False},
    )  # fmt: skip


def _dinov2() -> NativeMapping:
    scales = r"dinov2\.encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1"
    return _tower(
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
    return _tower(
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


VISION: tuple[NativeMapping, ...] = (_vit(), _vit_msn(), _dinov2(), _internvl_vision())
