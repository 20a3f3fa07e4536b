"""The tensors of a pickled state dict, read by torch's restricted unpickler."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery.checkpoint.files import opened
from normsurgery.checkpoint.shard import Shard
from normsurgery.checkpoint.tensor import LazyTensor
from normsurgery.checkpoint.text import shown
from normsurgery.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_HINT = "load it in transformers and save_pretrained() it, which writes safetensors"


def pickle_shard(path: Path) -> Shard:
    """A `.bin` file as a shard; memory-mapped where it is a zip archive.

    Raises CheckpointError for a pickle that wants to run code, or that is not a flat map of names
    to dense tensors.
    """
    with opened(path):
        pass  # refuses FIFOs and directories before torch blocks on them
    state = _load(path)
    if not isinstance(state, dict):
        raise CheckpointError(f"{shown(path.name)} is not a state dict", _HINT)
    tensors = {}
    for name, tensor in state.items():
        _check(path, name, tensor)
        tensors[name] = LazyTensor.of(tensor).named(name)
    return Shard(path.name, path, tensors, {"format": "pt"})


def _load(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and old storages
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # written before torch 1.6: no zip archive, so no memory map
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{shown(path.name)} holds more than tensors, and loading it could run code",
            "do not load it anywhere unless you trust who made it",
        ) from None
    except Exception as error:  # a hostile archive makes torch raise nearly anything
        raise CheckpointError(
            f"{shown(path.name)} cannot be unpickled ({type(error).__name__})", _HINT
        ) from None


def _check(path: Path, name: Any, tensor: Tensor) -> None:
    import torch

    where = f"{shown(path.name)}: {shown(name)}"
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise CheckpointError(f"{where} is not a named tensor", _HINT)
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(f"{where} is not a dense tensor", _HINT)
    size = tensor.numel() * tensor.element_size()
    if size > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{where} claims {size:,} bytes, more than it stores", _HINT)
