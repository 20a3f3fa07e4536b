"""Checkpoints built in code, honest and otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from normsurgery.checkpoint import Checkpoint, FileRecord, Staging, planned_bytes, write_weights

CONFIG = {"model_type": "toy", "n_layer": 1, "zeta": [1, 2.5, None], "alpha": {"b": True}}
SIDE_FILES = {"tokenizer.json": b'{"a": 1}\n', "LICENSE": b"free\n", "custom/code.py": b"x = 1\n"}


def toy_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Six tensors of four dtypes, one of them a scalar and one empty."""
    made = torch.Generator().manual_seed(seed)
    return {
        "embed.weight": torch.randn(11, 4, generator=made),
        "h.0.weight": torch.randn(4, 6, generator=made).to(torch.bfloat16),
        "h.0.bias": torch.randn(6, generator=made).to(torch.float16),
        "h.1.mask": torch.ones(5, dtype=torch.bool),
        "scale": torch.tensor(3.5),
        "none": torch.zeros(0, 3),
    }


def save(
    directory: Path,
    shards: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    config: Any = CONFIG,
    side_files: Mapping[str, bytes] = SIDE_FILES,
) -> Path:
    """Write a checkpoint with the safetensors library; an index where there are several shards."""
    directory.mkdir(parents=True, exist_ok=True)
    shards = shards or {"model.safetensors": toy_tensors()}
    for name, tensors in shards.items():
        save_file(dict(tensors), directory / name, metadata={"format": "pt"})
    if list(shards) != ["model.safetensors"]:
        claims = {tensor: name for name, tensors in shards.items() for tensor in tensors}
        save_index(directory, claims)
    (directory / "config.json").write_text(json.dumps(config))
    for name, data in side_files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def save_index(directory: Path, claims: Mapping[str, Any]) -> None:
    document = {"metadata": {"total_size": 1}, "weight_map": dict(claims)}
    (directory / "model.safetensors.index.json").write_text(json.dumps(document))


def two_shards() -> dict[str, dict[str, torch.Tensor]]:
    tensors = toy_tensors()
    names = list(tensors)
    return {
        "model-00001-of-00002.safetensors": {name: tensors[name] for name in names[:3]},
        "model-00002-of-00002.safetensors": {name: tensors[name] for name in names[3:]},
    }


def raw_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file from a header (an object, or the bytes as they shall stand)."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def tree(directory: Path) -> dict[str, bytes]:
    """Every regular file below a directory, by relative name."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def rewrite(
    checkpoint: Checkpoint, destination: Path, *, overwrite: bool = False, **options: Any
) -> list[FileRecord]:
    """Stage, write and publish, as a command does."""
    with Staging(
        destination,
        overwrite=overwrite,
        source=checkpoint.directory,
        needed_bytes=planned_bytes(checkpoint, options.get("max_shard_bytes")),
    ) as staging:
        records = write_weights(checkpoint, staging.path, **options)
        staging.publish()
    return records


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A one-file checkpoint with side files."""
    return save(tmp_path / "source")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same in two files."""
    return save(tmp_path / "sharded", two_shards())


Builder = Callable[[Path], None]
