"""Model inputs from .npy and .npz files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normsurgery.calibrate.arrays.target import Target
from normsurgery.errors import UsageError

LABELS = "labels"


def read_numpy(path: Path, target: Target) -> tuple[dict[str, Any], Tensor | None]:
    """The arrays of a file by argument of forward, and its labels [samples] where it has some.

    An .npy file, and the one array of an .npz file that is named like no argument, is the model's
    main input. Every array has one row a sample.

    UsageError: a damaged file, pickled objects, names that the model does not take, numbers of
    rows that differ, labels that are no class numbers.
    """
    arrays = _arrays(path)
    labels = arrays.pop(LABELS, None)
    unknown = [name for name in arrays if name not in target.accepted]
    if len(arrays) == 1 and unknown:
        arrays = {target.main: arrays[unknown[0]]}
    elif unknown:
        raise UsageError(
            f"{path.name}: the model takes no {unknown[0]}",
            f"name the arrays {', '.join(sorted(target.accepted))} or {LABELS}",
        )
    if not arrays:
        raise UsageError(f"{path.name} holds no input", f"name an array {target.main}")
    _check_rows(path, {**arrays, **({} if labels is None else {LABELS: labels})})
    return arrays, None if labels is None else _labels(path, labels, len(target.labels))


def as_tensor(array: Any, where: str) -> Tensor:
    """Floats as float32, integers as int64, truth values as they are.

    UsageError for other kinds, and where a value is NaN or infinite.
    """
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise UsageError(f"{where} holds NaN or Inf", "give finite inputs")
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "b":
        return torch.from_numpy(array.copy())
    raise UsageError(f"{where} holds {array.dtype}", "give numbers")


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {path.stem: loaded}
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"{path} cannot be read as arrays: {reason}", "save it with numpy.save or numpy.savez"
        ) from None


def _check_rows(path: Path, arrays: dict[str, Any]) -> None:
    sizes = {name: (len(array) if array.ndim else 0) for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UsageError(f"{path.name}: rows differ in number: {told}", "one row a sample")
    if not next(iter(sizes.values())):
        raise UsageError(f"{path.name} holds no sample", "the first axis counts samples")


def _labels(path: Path, labels: Any, count: int) -> Tensor:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{path.name}: labels of shape {list(labels.shape)} and type {labels.dtype}",
            "labels are class numbers, one a sample",
        )
    if count and (labels.min() < 0 or labels.max() >= count):
        raise UsageError(
            f"{path.name}: labels from {labels.min()} to {labels.max()}",
            f"the model has classes 0 to {count - 1}",
        )
    return torch.from_numpy(labels.astype(np.int64))
