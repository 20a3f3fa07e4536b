"""Example inputs of any modality, made from a model's configuration and forward signature."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn


def example_inputs(model: nn.Module, *, batch: int, length: int, seed: int) -> dict[str, Tensor]:
    """Seeded random inputs that `model.forward` takes, in the model's own dtype and device.

    Token ids [batch, length] keep clear of the special ids (a pad in the middle shifts positions in
    some families). Images [batch, channels, height, width] and audio features [batch, mels, frames]
    have the sizes that the configuration asks for. length is capped at the longest position.
    """
    generator = torch.Generator().manual_seed(seed)
    config: Any = model.config
    accepted = inspect.signature(model.forward).parameters
    text = getattr(config, "text_config", config)
    inputs: dict[str, Tensor] = {}
    if "input_ids" in accepted:
        inputs |= _tokens(text, generator, batch, length)
    if "input_features" in accepted:
        inputs["input_features"] = _audio_features(config, generator, batch)
    if "pixel_values" in accepted:
        inputs["pixel_values"] = _pixels(getattr(config, "vision_config", config), generator, batch)
    if "decoder_input_ids" in accepted and getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = _tokens(text, generator, batch, length)["input_ids"]
    if "input_ids" in inputs and "attention_mask" not in accepted:
        del inputs["attention_mask"]
    parameter = next(model.parameters())
    return {
        name: tensor.to(parameter.device, parameter.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }


def _tokens(config: Any, generator: torch.Generator, batch: int, length: int) -> dict[str, Tensor]:
    limits = [
        getattr(config, key, None)
        for key in (
            "max_position_embeddings",
            "n_positions",
            "max_target_positions",
            "max_seq_len",
            "n_ctx",
        )
    ]
    length = min([length, *(limit for limit in limits if isinstance(limit, int) and limit > 0)])
    special = {
        value for key, value in config.to_dict().items()
        if key.endswith("token_id") and isinstance(value, int)
    }  # fmt: skip
    allowed = torch.tensor([i for i in range(min(config.vocab_size, 4096)) if i not in special])
    chosen = torch.randint(len(allowed), (batch, length), generator=generator)
    ids = allowed[chosen]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _audio_features(config: Any, generator: torch.Generator, batch: int) -> Tensor:
    frames = 2 * getattr(config, "max_source_positions", 16)  # the stem's convolution halves them
    mels = getattr(config, "num_mel_bins", 80)
    return torch.randn(batch, mels, frames, generator=generator)


def _pixels(config: Any, generator: torch.Generator, batch: int) -> Tensor:
    size = getattr(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return torch.randn(
        batch, getattr(config, "num_channels", 3), height, width, generator=generator
    )
