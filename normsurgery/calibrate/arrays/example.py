"""A user's own file as the inputs of a twin, where the configuration does not tell them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from normsurgery.anatomy.inputs import example_candidates
from normsurgery.anatomy.twin import Examples
from normsurgery.calibrate.arrays.read import read_arrays

_UNKNOWN = (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError)


def example_inputs_from(
    path: str | Path,
    model: Any,
    directory: Path,
    *,
    batch: int,
    length: int,
    seed: int,
    trust_remote_code: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Inputs that `model` (a twin) may take, made of the samples of a file, likely first.

    First in the sizes that the twin's configuration asks for: images resized, every other axis cut
    or repeated, and whatever else the forward needs made up as `example_candidates` does. Then as
    the file has them. In the model's dtype and device, at most `batch` samples.

    UsageError as `read_arrays` raises.
    """
    samples = read_arrays(
        path, model, directory, limit=batch, seed=seed, trust_remote_code=trust_remote_code
    )
    given = next(samples.batches(batch)).inputs
    parameter = next(model.parameters())

    def placed(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    made_up = example_candidates(model, batch=batch, length=length, seed=seed)
    while (made := _next(made_up)) is not None:
        own = {n: fitted(v, made[n].shape) if n in made else v for n, v in given.items()}
        yield placed({**made, **own})
    yield placed(given)


def examples_of(path: str | Path, directory: Path, *, trust_remote_code: bool = False) -> Examples:
    """What `examine(checkpoint, examples=…)` takes: the twin's inputs, made of this file.

    directory: the checkpoint's, for its processor.
    """

    def examples(model: Any, batch: int, length: int, seed: int) -> Iterator[dict[str, Tensor]]:
        return example_inputs_from(
            path, model, directory, batch=batch, length=length, seed=seed,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip

    return examples


def fitted(value: Tensor, shape: torch.Size) -> Tensor:
    """The value in another shape: images resized, missing axes put after the first, others tiled.

    Images are floating tensors whose last two of four or more axes both differ in length. A value
    of more axes than the shape has stays as it is.
    """
    if value.dim() > len(shape):
        return value
    while value.dim() < len(shape):
        value = value.unsqueeze(1)
    sides = tuple(shape[-2:])
    if value.dim() >= 4 and value.is_floating_point() and tuple(value.shape[-2:]) != sides:
        flat = value.flatten(0, -4) if value.dim() > 4 else value
        resized = functional.interpolate(
            flat, sides, mode="bilinear", align_corners=False, antialias=True
        )
        value = resized.reshape(*value.shape[:-2], *sides)
    for axis, size in enumerate(shape):
        value = value.index_select(axis, torch.arange(size) % value.shape[axis])
    return value


def _next(candidates: Iterator[dict[str, Tensor]]) -> dict[str, Tensor] | None:
    """The next that can be made up; None at the end, and where the config says too little."""
    try:
        return next(candidates, None)
    except _UNKNOWN:
        return None
