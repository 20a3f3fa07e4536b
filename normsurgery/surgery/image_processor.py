"""What an image processor's file says of pixels, and the file of one that hands them on raw.

`preprocessor_config.json`, or the part for images of `processor_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.runtime import quiet
from normsurgery.checkpoint import Checkpoint
from normsurgery.checkpoint.files import read_small

_FILES = ("preprocessor_config.json", "processor_config.json")
_NESTED = "image_processor"  # where the second of them holds what the first does
_LIMIT = 1 << 20  # bytes of such a file
_OTHERWISE = {
    "do_pad": "pads with zeros after it normalizes",
    "do_flip_channel_order": "exchanges channels",
    "offset": "shifts pixels when it rescales",
}


class RefusedError(Exception):
    """Why a processor's normalization cannot be folded."""


@dataclass(frozen=True)
class Pixels:
    """What a processor makes of pixels: (p · rescale − mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float

    @property
    def gain(self) -> Tensor:
        return self.rescale / torch.tensor(self.std, dtype=torch.float64)

    @property
    def shift(self) -> Tensor:
        return -torch.tensor(self.mean, dtype=torch.float64) / torch.tensor(
            self.std, dtype=torch.float64
        )


def processor_files(source: Checkpoint) -> dict[str, dict[str, Any]]:
    """The processor's files that speak of normalization, by name."""
    found = {}
    for name in _FILES:
        if name in source.extra_files:
            text = source.extra_files[name]
        elif name in source.side_files:
            text = read_small(source.directory / name, _LIMIT)
        else:
            continue
        try:
            values = json.loads(text)
        except ValueError:
            raise RefusedError(f"{name} is not JSON") from None
        if isinstance(values, dict) and _part(values) is not None:
            found[name] = values
    return found


def _part(values: dict[str, Any]) -> dict[str, Any] | None:
    """The image processor's part of a processor's file."""
    nested = values.get(_NESTED)
    part = nested if isinstance(nested, dict) else values
    return part if {"image_mean", "do_normalize", "image_processor_type"} & set(part) else None


def pixels_of(checkpoint: Checkpoint) -> Pixels:
    """What the processor does. Raises RefusedError where it normalizes nothing, or does more."""
    files = processor_files(checkpoint)
    if not files:
        raise RefusedError("the checkpoint has no image processor (preprocessor_config.json)")
    part = dict(_part(next(iter(files.values()))) or {})
    wanted = ("do_normalize", "image_mean", "image_std", "do_rescale", "rescale_factor")
    if any(part.get(key) is None for key in wanted):
        part = {**_defaults(checkpoint, wanted), **{k: v for k, v in part.items() if v is not None}}
    for key, what in _OTHERWISE.items():
        if part.get(key):
            raise RefusedError(f"the image processor {what} ({key})")
    if not part["do_normalize"]:
        raise RefusedError("the image processor does not normalize (do_normalize)")
    mean, std = (_numbers(part[key], key) for key in ("image_mean", "image_std"))
    if len(mean) != len(std) or not all(std):
        raise RefusedError("image_mean and image_std of the image processor do not fit each other")
    rescale = float(part["rescale_factor"]) if part["do_rescale"] else 1.0
    if not rescale:
        raise RefusedError("the image processor's rescale_factor is zero")
    return Pixels(mean, std, rescale)


def _defaults(checkpoint: Checkpoint, wanted: Sequence[str]) -> dict[str, Any]:
    """What the processor's class fills in."""
    from transformers import AutoImageProcessor

    try:
        with quiet():
            made = AutoImageProcessor.from_pretrained(checkpoint.directory)
        return {key: getattr(made, key) for key in wanted}
    except Exception as error:  # whatever its class raises, or lacks
        reason = " ".join(str(error).split())[:120]
        raise RefusedError(f"the image processor cannot be opened: {reason}") from error


def _numbers(value: Any, key: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in value)
    except (TypeError, ValueError):
        raise RefusedError(f"{key} of the image processor is {value!r}") from None


def without_normalization(values: Mapping[str, Any]) -> bytes:
    """A processor's file that hands on pixels as they are: still rescaled, by one, so that they
    come out as floating numbers."""
    changed = json.loads(json.dumps(values))
    part = _part(changed)
    assert part is not None
    part.update(do_normalize=False, do_rescale=True, rescale_factor=1.0)
    return (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()
