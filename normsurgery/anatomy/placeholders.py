"""Rows of tokens with a placeholder for every feature of the picture or the sound beside them.

How many a model wants is asked of the model itself: its tower is run, and its features counted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Modality: the input, the method that turns it into features, the keys of its placeholder.
_KINDS = (
    ("pixel_values", "get_image_features", ("image_token_id", "image_token_index")),
    ("input_features", "get_audio_features", ("audio_token_id", "audio_token_index")),
)
_FRAME_MASKS = ("input_features_mask", "feature_attention_mask")


def with_placeholders(
    model: nn.Module, inputs: dict[str, Tensor], setting: Callable[..., Any], *, longest: int
) -> dict[str, Tensor]:
    """The inputs with `input_ids` [batch, features + length], and the masks that go with them.

    setting: looks keys up in the model's configuration. longest: rows are cut to it.
    Inputs that are not the model's layout, or of a model without placeholders, come back unchanged.
    """
    accepted = inspect.signature(model.forward).parameters
    if "input_features" in inputs:
        every = _all_frames(inputs["input_features"], setting)
        masks = [mask for mask in _FRAME_MASKS if mask in accepted and _of_frames(model, mask)]
        inputs = {**inputs, **dict.fromkeys(masks, every)}
    for name, method, keys in _KINDS:
        token = setting(*keys)
        tower = next((part for part in model.modules() if hasattr(part, method)), None)
        if name not in inputs or not isinstance(token, int):
            continue
        rows = inputs["input_ids"]
        if tower is not None:
            count = _features(tower, getattr(tower, method), name, inputs)
        else:  # Qwen2-Audio puts all features of a sound where its one token is
            count = len(rows) if name == "input_features" else 0
        places = torch.full((len(rows), count // len(rows)), token, dtype=torch.long)
        inputs = {**inputs, "input_ids": torch.cat([places, rows], dim=1)[:, :longest]}
        if "mm_token_type_ids" in accepted and name == "pixel_values":
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == token).long()
    return inputs


def _of_frames(model: nn.Module, mask: str) -> bool:
    """Whether the encoder takes the mask; one that it does not is of features, not of frames."""
    found = (getattr(module, "get_audio_features", None) for module in model.modules())
    method: Any = next((one for one in found if one is not None), None)
    return method is None or mask in inspect.signature(method).parameters


def _features(tower: nn.Module, run: Callable[..., Any], name: str, inputs: Any) -> int:
    """How many features `run` makes of this input; 0 where the input is not its layout."""
    weight = next(tower.parameters())  # as it is: verification runs models in any precision
    known = inspect.signature(run).parameters
    beside = {key: value for key, value in inputs.items() if key in known and key != "input_ids"}
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values()):
        beside |= {key: value for key, value in inputs.items() if key.startswith("image_")}
    try:
        with torch.no_grad():
            placed = {key: value.to(weight.device) for key, value in beside.items()}
            found = run(**{**placed, name: inputs[name].to(weight.device, weight.dtype)})
    except Exception:  # this layout is not the model's; the next one may be
        return 0
    features = getattr(found, "pooler_output", found)
    parts = [features] if isinstance(features, Tensor) else list(features)
    return sum(part.numel() // part.shape[-1] for part in parts)


def _all_frames(spectrogram: Tensor, setting: Callable[..., Any]) -> Tensor:
    """A mask [batch, frames] that leaves every frame in; time is first or last."""
    mels = setting("num_mel_bins", "feature_size", "n_mels", "input_dim", default=80)
    frames = spectrogram.shape[2 if spectrogram.shape[1] == mels else 1]
    return torch.ones(len(spectrogram), frames, dtype=torch.long)
