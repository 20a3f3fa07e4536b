"""Tiny checkpoints of the families in the native table, built once a session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from normsurgery.anatomy.examine import examine
from normsurgery.checkpoint import open_checkpoint
from normsurgery.native.plan import NativePlan, Refusal, native_plans
from tests.families import build_spec
from tests.less_text import measured_on_less_text as measured_on_less_text
from tests.native.families import FAMILIES

Built = Callable[..., Path]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """`built(family, dtype="float32", **config)` → a directory; tests must not write into it.

    config: overrides values of the family's configuration.
    """
    root = tmp_path_factory.mktemp("native")
    made: dict[tuple[Any, ...], Path] = {}

    def make(family: str, *, dtype: str = "float32", **config: Any) -> Path:
        key = (family, dtype, json.dumps(config, sort_keys=True))
        if key not in made:
            made[key] = root / f"{family}-{len(made)}"
            model, config_name, values = FAMILIES[family]
            spec = model, config_name, {**values, **config}
            build_spec(spec, made[key], dtype=dtype)
        return made[key]

    return make


def edited(source: Path, target: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """A copy of a checkpoint with its tensors changed in place by `edit`."""
    shutil.copytree(source, target)
    file = target / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return target


def with_config(source: Path, target: Path, **values: Any) -> Path:
    """A copy of a checkpoint with values of its config.json changed."""
    shutil.copytree(source, target)
    file = target / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return target


def plans(directory: Path, **options: Any) -> list[NativePlan | Refusal]:
    """What `native_plans` says of a checkpoint."""
    checkpoint = open_checkpoint(directory)
    return native_plans(checkpoint, examine(checkpoint), **options)


def refusals(directory: Path, **options: Any) -> dict[str, str]:
    """Target family → why it does not fit."""
    found = plans(directory, **options)
    return {one.mapping.target.family: one.reason for one in found if isinstance(one, Refusal)}


def accepted(directory: Path, **options: Any) -> dict[str, NativePlan]:
    """Target class → plan."""
    found = plans(directory, **options)
    return {one.architecture: one for one in found if isinstance(one, NativePlan)}
