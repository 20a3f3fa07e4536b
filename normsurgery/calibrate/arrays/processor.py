"""The checkpoint's own processor: pictures and sounds as the model was trained to see them.

Image processors run on Pillow, whatever else is installed: two machines then get the same pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from normsurgery.anatomy.runtime import quiet
from normsurgery.calibrate.arrays.target import Target
from normsurgery.errors import UsageError

_FILES = ("preprocessor_config.json", "processor_config.json")
_REFUSALS = (ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError)


@dataclass(frozen=True)
class Preparer:
    """Makes model inputs of one image or sound at a time.

    own: the checkpoint's processor, None where it has none; then the plain rule that `rule` states.
    """

    target: Target
    own: Any | None

    @property
    def rule(self) -> str:
        """How samples are prepared, in words for the report."""
        if self.own is not None:
            return type(self.own).__name__
        return "no processor: pixels / 255, resized to the model's image size; sounds as they are"

    def image(self, pixels: Any, where: str) -> dict[str, Tensor]:
        """uint8 [height, width, channels] → arguments of forward, each [1, …].

        UsageError where the processor refuses the image.
        """
        if self.own is None:
            return {self.target.argument_for("images"): self._plain(pixels)}
        try:
            with quiet():
                made = self.own(images=pixels, input_data_format="channels_last",
                                return_tensors="pt")  # fmt: skip
        except _REFUSALS as error:
            raise _refused(where, self.own, error) from None
        return self._accepted(made, where)

    def sound(self, samples: Any, rate: int, where: str) -> dict[str, Tensor]:
        """float32 [samples] → arguments of forward, each [1, …].

        UsageError where the sampling rate is not the extractor's.
        """
        if self.own is None:
            return {self.target.argument_for("sounds"): torch.from_numpy(samples)[None]}
        wanted = getattr(self.own, "sampling_rate", rate)
        if wanted != rate:
            raise UsageError(
                f"{where} has {rate} samples a second, the model hears {wanted}",
                f"resample it to {wanted} Hz",
            )
        try:
            with quiet():
                made = self.own(samples, sampling_rate=rate, return_tensors="pt")
        except _REFUSALS as error:
            raise _refused(where, self.own, error) from None
        return self._accepted(made, where)

    def _plain(self, pixels: Any) -> Tensor:
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        size = self.target.image_size
        if size is None or tuple(image.shape[2:]) == size:
            return image
        return functional.interpolate(
            image, size, mode="bilinear", align_corners=False, antialias=True
        )

    def _accepted(self, made: Mapping[str, Any], where: str) -> dict[str, Tensor]:
        tensors = {
            name: value
            for name, value in made.items()
            if isinstance(value, Tensor) and name in self.target.accepted
        }
        if not tensors:
            raise UsageError(
                f"{where}: {type(self.own).__name__} makes {', '.join(made) or 'nothing'}, and the "
                f"model takes {', '.join(sorted(self.target.accepted))}",
                "give the model's inputs as an .npz file, named like these",
            )
        return tensors


def load_processor(directory: Path, kind: str, *, trust_remote_code: bool) -> Any | None:
    """The image processor or feature extractor of a checkpoint; None where it has no such file.

    kind: "images" or "sounds". UsageError where there is one and it does not load.
    """
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    if not any((directory / name).is_file() for name in _FILES):
        return None
    given = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        with quiet():
            if kind == "images":
                return AutoImageProcessor.from_pretrained(str(directory), backend="pil", **given)
            return AutoFeatureExtractor.from_pretrained(str(directory), **given)
    except (OSError, ImportError, *_REFUSALS) as error:
        raise UsageError(
            f"the processor of {directory} cannot be loaded: {_line(error)}",
            "give the model's inputs as an .npz file instead",
        ) from None


def _refused(where: str, processor: Any, error: Exception) -> UsageError:
    return UsageError(
        f"{where}: {type(processor).__name__} refuses it: {_line(error)}",
        "give the model's inputs as an .npz file instead",
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
