"""Weights in `.bin` files: only when allowed, only tensors, written back as safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import CheckpointError
from tests.checkpoint.conftest import CONFIG, rewrite, toy_tensors


def pickled(directory: Path, files: dict[str, Any], *, legacy: bool = False) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    for name, state in files.items():
        torch.save(state, directory / name, _use_new_zipfile_serialization=not legacy)
    if "pytorch_model.bin" not in files:
        claims = {tensor: name for name, state in files.items() for tensor in state}
        document = {"metadata": {}, "weight_map": claims}
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps(document))
    return directory


@pytest.mark.parametrize("legacy", [False, True])
def test_becomes_safetensors(tmp_path: Path, legacy: bool) -> None:
    source = pickled(tmp_path / "source", {"pytorch_model.bin": toy_tensors()}, legacy=legacy)
    checkpoint = open_checkpoint(source, allow_pickle=True)
    assert checkpoint.metadata == {"format": "pt"}
    assert checkpoint.side_files == ()
    rewrite(checkpoint, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    loaded = load_file(tmp_path / "out" / "model.safetensors")
    assert loaded.keys() == toy_tensors().keys()
    for name, tensor in toy_tensors().items():
        assert torch.equal(loaded[name], tensor)


def test_shards_keep_their_boundaries_under_new_names(tmp_path: Path) -> None:
    one, two = {"a": torch.ones(2)}, {"b": torch.zeros(3)}
    files = {"pytorch_model-00001-of-00002.bin": one, "pytorch_model-00002-of-00002.bin": two}
    checkpoint = open_checkpoint(pickled(tmp_path / "source", files), allow_pickle=True)
    rewrite(checkpoint, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
    }
    assert index["metadata"]["total_size"] == 20
    assert not list((tmp_path / "out").glob("*.bin*"))


def test_tied_tensors_are_written_as_two(tmp_path: Path) -> None:
    table = torch.randn(3, 2)
    source = pickled(tmp_path / "source", {"pytorch_model.bin": {"wte": table, "head": table}})
    rewrite(open_checkpoint(source, allow_pickle=True), tmp_path / "out")
    loaded = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(loaded["wte"], table)
    assert torch.equal(loaded["head"], table)


BAD: dict[str, tuple[Any, str]] = {
    "a list": ([torch.ones(1)], "not a state dict"),
    "a number inside": ({"a": 3}, "a is not a named tensor"),
    "a tensor under a number": ({3: torch.ones(1)}, "3 is not a named tensor"),
    "a nested dict": ({"model": {"a": torch.ones(1)}}, "model is not a named tensor"),
    "a sparse tensor": ({"a": torch.ones(2).to_sparse()}, "a is not a dense tensor"),
    "more than is stored": ({"a": torch.ones(1).expand(10**9)}, "4,000,000,000 bytes"),
    "a dtype without name": ({"a": torch.ones(1, dtype=torch.complex128)}, "complex128"),
}


@pytest.mark.parametrize("case", BAD)
def test_anything_but_a_flat_state_dict_is_refused(tmp_path: Path, case: str) -> None:
    state, words = BAD[case]
    source = pickled(tmp_path / "source", {"pytorch_model.bin": state})
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(source, allow_pickle=True)
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 broken", b"\x80\x02broken"])
def test_a_damaged_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    source = pickled(tmp_path / "source", {"pytorch_model.bin": {}})
    (source / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(source, allow_pickle=True)


def test_not_read_unless_allowed(tmp_path: Path) -> None:
    source = pickled(tmp_path / "source", {"pytorch_model.bin": {"a": torch.ones(1)}})
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source)
    assert "--allow-pickle" in caught.value.hint
