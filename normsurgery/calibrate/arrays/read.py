"""Images, sounds and arrays from files → samples of model inputs, with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normsurgery.calibrate.arrays.files import Found, find_files
from normsurgery.calibrate.arrays.media import read_image, read_wave
from normsurgery.calibrate.arrays.numpy_files import as_tensor, read_numpy
from normsurgery.calibrate.arrays.processor import Preparer, load_processor
from normsurgery.calibrate.arrays.samples import Samples
from normsurgery.calibrate.arrays.target import Target
from normsurgery.errors import UsageError


def read_arrays(
    path: str | Path,
    model: Any,
    directory: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Samples:
    """Samples of a model's inputs from an image, a .wav, an .npy or .npz file, or a folder of them.

    model: loaded, or its twin (its forward's signature and its configuration count). directory: the
    checkpoint's, for its processor. limit: at most so many samples, drawn by `seed`, in order.

    Images and sounds go through the checkpoint's image processor or feature extractor. Where it
    has none, an image is pixels / 255 in the model's channels, resized to its `image_size`; a sound
    is its waveform. Sub-folder names are labels (`Target.numbers_of` says how). Arrays are inputs
    as they are, by the name of the argument (`read_numpy`); but uint8 [samples, height, width] or
    [samples, height, width, channels] for the model's main input are images.

    UsageError with the reason: no such path, no sample, unreadable or another format, NaN, a name
    that the model does not take, another sampling rate.
    """
    found = find_files(Path(path))
    target = Target.of(model)
    if found.kind == "arrays":
        samples = _from_numpy(found.files[0], target, directory, limit, seed, trust_remote_code)
    else:
        samples = _from_files(found, target, directory, limit, seed, trust_remote_code)
    about = {"source": Path(path).name, "samples": len(samples), **samples.about}
    return Samples(samples.rows, samples.labels, about)


def _from_files(
    found: Found, target: Target, directory: Path, limit: int | None, seed: int, trust: bool
) -> Samples:
    preparer = Preparer(target, load_processor(directory, found.kind, trust_remote_code=trust))
    numbers = _drawn(len(found.files), limit, seed)
    rows = []
    for number in numbers:
        file = found.files[number]
        if found.kind == "images":
            rows.append(preparer.image(read_image(file, channels=target.channels), file.name))
        else:
            rows.append(preparer.sound(*read_wave(file), file.name))
    labels, notes = None, []
    if found.folders is not None:
        named = target.numbers_of(found.folders)
        if isinstance(named, str):
            notes.append(f"no labels: {named}")
        else:
            labels = tuple(named[number] for number in numbers)
    about = {"kind": found.kind, "prepared": preparer.rule, "notes": notes}
    return Samples(tuple(rows), labels, about)


def _from_numpy(
    path: Path, target: Target, directory: Path, limit: int | None, seed: int, trust: bool
) -> Samples:
    arrays, labels = read_numpy(path, target)
    numbers = _drawn(len(next(iter(arrays.values()))), limit, seed)
    kind, rule = "arrays", "as they are"
    if _are_images(arrays.get(target.main), target):
        preparer = Preparer(target, load_processor(directory, "images", trust_remote_code=trust))
        kind, rule = "images", preparer.rule
        pixels = arrays.pop(target.main)
        made = [
            preparer.image(_in_channels(pixels[i], target.channels, path), f"{path.name}[{i}]")
            for i in numbers
        ]
    else:
        made = [{} for _ in numbers]
    tensors = {name: as_tensor(a, f"{path.name}: {name}") for name, a in arrays.items()}
    rows = tuple(
        {**row, **_row(tensors, number)} for number, row in zip(numbers, made, strict=True)
    )
    chosen = None if labels is None else tuple(labels[torch.tensor(numbers)].tolist())
    return Samples(rows, chosen, {"kind": kind, "prepared": rule, "notes": []})


def _row(tensors: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    return {name: tensor[number : number + 1] for name, tensor in tensors.items()}


def _are_images(array: Any | None, target: Target) -> bool:
    if array is None or array.dtype != np.uint8 or "pixel" not in target.main:
        return False
    return array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3, 4))


def _in_channels(pixels: Any, channels: int, path: Path) -> Any:
    """One uint8 image [height, width] or [height, width, any] in the model's channels."""
    whole = pixels if pixels.ndim == 3 else pixels[..., None]
    if whole.shape[2] == channels:
        return whole
    if whole.shape[2] == 1:
        return np.repeat(whole, channels, axis=2)
    raise UsageError(
        f"{path.name}: images of {whole.shape[2]} channels, the model takes {channels}",
        "save them with the model's number of channels",
    )


def _drawn(count: int, limit: int | None, seed: int) -> list[int]:
    if limit is None or count <= limit:
        return list(range(count))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:limit].tolist())
