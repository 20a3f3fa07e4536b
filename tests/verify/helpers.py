"""Edited copies of checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from normsurgery.verify import ModelSource, Verification, VerifyOptions, compare

Edit = Callable[[dict[str, Tensor]], None]


def edited(source: Path, target: Path, edit: Edit, **config: Any) -> Path:
    """A copy of a single-file checkpoint with its tensors edited and config keys replaced."""
    shutil.copytree(source, target)
    file = target / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    if config:
        path = target / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return target


def cast(dtype: torch.dtype) -> Edit:
    def edit(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)

    return edit


def centre_gpt2(tensors: dict[str, Tensor]) -> None:
    """Remove the mean of all writers but the tied embedding: exact under LayerNorm."""
    for name, tensor in tensors.items():
        if "c_proj" in name or "wpe" in name:
            wide = tensor.double()
            tensors[name] = (wide - wide.mean(-1, keepdim=True)).to(tensor.dtype)


def find(tensors: dict[str, Tensor], end: str) -> str:
    return next(name for name in tensors if name.endswith(end))


def verified(reference: Path, candidate: Path, **options: Any) -> Verification:
    chosen = VerifyOptions(**{"tokens": 192, "max_length": 48, "new_tokens": 8, **options})
    return compare(ModelSource(reference), ModelSource(candidate), chosen)
