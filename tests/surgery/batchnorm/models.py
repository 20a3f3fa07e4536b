"""Small networks with BatchNorms whose folds are written by hand, and the checkpoints of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from normsurgery.anatomy.batchnorm.sites import BatchNorm, LinearMap
from normsurgery.anatomy.names import NameMap, Part
from normsurgery.checkpoint import Checkpoint, open_checkpoint


def norm_of(model: nn.Module, name: str) -> BatchNorm:
    norm: Any = model.get_submodule(name)
    has = {key: f"{name}.{key}" for key in ("weight", "bias") if getattr(norm, key) is not None}
    return BatchNorm(
        name, type(norm).__name__, len(norm.running_mean), norm.eps, has.get("weight"),
        has.get("bias"), f"{name}.running_mean", f"{name}.running_var",
    )  # fmt: skip


def map_of(model: nn.Module, name: str) -> LinearMap:
    module = model.get_submodule(name)
    transposed = bool(getattr(module, "transposed", False))
    return LinearMap(
        name, f"{name}.weight", f"{name}.bias" if module.bias is not None else None,
        out_dim=int(transposed), in_dim=1 - int(transposed), groups=getattr(module, "groups", 1),
        transposed=transposed,
    )  # fmt: skip


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """The model in float64 and eval, every number of its norms random, some scales negative."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(noise.abs() + 0.3 if name.endswith("running_var") else noise)
    return model


@dataclass(frozen=True)
class Saved:
    checkpoint: Checkpoint
    names: NameMap


def saved(model: nn.Module, directory: Path, dtype: torch.dtype = torch.float64) -> Saved:
    directory.mkdir(exist_ok=True)
    state = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    save_file(state, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"model_type": "hand-made"}))
    names = NameMap({name: Part(name) for name in state}, {}, {}, {name: name for name in state})
    return Saved(open_checkpoint(directory), names)


def loaded(model: nn.Module, result: Checkpoint) -> nn.Module:
    model.load_state_dict({name: tensor.load() for name, tensor in result.items()})
    return model.eval()
