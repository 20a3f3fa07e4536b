"""What the writer puts on the disk: the same bytes where nothing changed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from normsurgery.checkpoint import (
    Checkpoint,
    LazyTensor,
    hash_files,
    open_checkpoint,
    planned_bytes,
    write_weights,
)
from normsurgery.checkpoint import sink as sink_module
from normsurgery.errors import CheckpointError, SurgeryError, UsageError
from tests.checkpoint.conftest import SIDE_FILES, raw_file, rewrite, save, toy_tensors, tree

INDEX = "model.safetensors.index.json"


def index_of(directory: Path) -> dict[str, dict[str, object]]:
    document: dict[str, dict[str, object]] = json.loads((directory / INDEX).read_text())
    return document


@pytest.mark.parametrize("hashes", [False, True])
@pytest.mark.parametrize("refuse_nonfinite", [False, True])
@pytest.mark.parametrize("kind", ["source", "sharded"])
def test_an_untouched_checkpoint_keeps_every_byte(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, hashes: bool, refuse_nonfinite: bool
) -> None:
    source = request.getfixturevalue(kind)
    rewrite(
        open_checkpoint(source), tmp_path / "out", hashes=hashes, refuse_nonfinite=refuse_nonfinite
    )
    assert tree(tmp_path / "out") == tree(source)


def test_an_odd_header_is_kept_as_it_is(tmp_path: Path) -> None:
    header = b'{ "b":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":1} }  '
    save(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").write_bytes(raw_file(header, b"ab"))
    rewrite(open_checkpoint(tmp_path / "source"), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "source")


def test_records_tell_sizes_and_hashes(sharded: Path, tmp_path: Path) -> None:
    records = rewrite(open_checkpoint(sharded), tmp_path / "out")
    found = tree(tmp_path / "out")
    assert {record.name for record in records} == set(found)
    for record in records:
        assert record.bytes == len(found[record.name])
        assert record.sha256 == hashlib.sha256(found[record.name]).hexdigest()
    assert [record.kind for record in records] == ["weights"] * 2 + ["index", "config"] + [
        "side"
    ] * len(SIDE_FILES)
    weights = [record for record in records if record.kind == "weights"]
    assert hash_files(open_checkpoint(sharded).weight_files) == weights


def test_hashes_can_be_left_out(source: Path, tmp_path: Path) -> None:
    records = rewrite(open_checkpoint(source), tmp_path / "out", hashes=False)
    assert {record.sha256 for record in records} == {None}


def with_edits(source: Path) -> Checkpoint:
    checkpoint = open_checkpoint(source)
    return (
        checkpoint.override(
            {
                "embed.weight": checkpoint["embed.weight"].map(lambda t: t * 2, by_rows=True),
                "h.0.bias": LazyTensor.of(torch.full((6,), 0.5, dtype=torch.float16)),
            }
        )
        .rename({"h.0.weight": "layer.weight"})
        .drop(["h.1.mask"])
        .add({"head.weight": checkpoint["embed.weight"]}, beside="scale")
        .with_config({**checkpoint.config, "n_layer": 3, "new": "ü"})
        .with_files({"surgery.json": b"{}", "LICENSE": b"other"})
        .without_files(["tokenizer.json"])
    )


@pytest.mark.parametrize("kind", ["source", "sharded"])
@pytest.mark.parametrize("max_shard_bytes", [None, 1, 200, 10**9])
def test_edits_are_on_the_disk(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, max_shard_bytes: int | None
) -> None:
    edited = with_edits(request.getfixturevalue(kind))
    out = tmp_path / "out"
    rewrite(edited, out, max_shard_bytes=max_shard_bytes)
    tensors = toy_tensors()
    expected = {
        "embed.weight": tensors["embed.weight"] * 2,
        "h.0.bias": torch.full((6,), 0.5, dtype=torch.float16),
        "layer.weight": tensors["h.0.weight"],
        "scale": tensors["scale"],
        "none": tensors["none"],
        "head.weight": tensors["embed.weight"],
    }
    found: dict[str, torch.Tensor] = {}
    for path in out.glob("*.safetensors"):
        found |= load_file(path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    config = json.loads((out / "config.json").read_text())
    assert list(config) == [*edited.config]
    assert config["n_layer"] == 3
    assert (out / "config.json").read_text().endswith("}\n")
    assert (out / "surgery.json").read_bytes() == b"{}"
    assert (out / "LICENSE").read_bytes() == b"other"
    assert (out / "custom" / "code.py").read_bytes() == SIDE_FILES["custom/code.py"]
    assert not (out / "tokenizer.json").exists()
    assert dict(open_checkpoint(out)).keys() == expected.keys()


@pytest.mark.parametrize("max_shard_bytes", [None, 60, 10**9])
def test_the_plan_is_what_is_written(
    sharded: Path, tmp_path: Path, max_shard_bytes: int | None
) -> None:
    edited = with_edits(sharded)
    written: list[int] = []
    records = rewrite(
        edited, tmp_path / "out", max_shard_bytes=max_shard_bytes, progress=written.append
    )
    total = sum(len(data) for data in tree(tmp_path / "out").values())
    assert planned_bytes(edited, max_shard_bytes) == total
    assert sum(record.bytes for record in records) == total
    assert sum(written) == total


def test_the_source_boundaries_are_kept(sharded: Path, tmp_path: Path) -> None:
    edited = with_edits(sharded)
    rewrite(edited, tmp_path / "out")
    before, after = index_of(sharded)["weight_map"], index_of(tmp_path / "out")["weight_map"]
    assert {n: f for n, f in after.items() if n in before} == {
        n: f for n, f in before.items() if n in after
    }
    assert after["head.weight"] == before["scale"]
    assert after["layer.weight"] == before["h.0.weight"]
    assert index_of(tmp_path / "out")["metadata"]["total_size"] == edited.nbytes


def test_shards_are_renumbered_when_one_goes(sharded: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    first = checkpoint.shards["embed.weight"]
    rest = checkpoint.drop([name for name, file in checkpoint.shards.items() if file == first])
    rewrite(rest, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / INDEX).exists()


def test_a_size_limit_makes_numbered_shards(source: Path, tmp_path: Path) -> None:
    rewrite(open_checkpoint(source), tmp_path / "out", max_shard_bytes=100)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert names == [
        f"model-{i:05d}-of-{len(names):05d}.safetensors" for i in range(1, len(names) + 1)
    ]
    for name in names:
        held = load_file(tmp_path / "out" / name)
        assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= 100
    assert set(index_of(tmp_path / "out")["weight_map"].values()) == set(names)


def test_other_keys_of_the_index_live_on(sharded: Path, tmp_path: Path) -> None:
    document = index_of(sharded)
    document["metadata"] = {"total_size": 1, "total_parameters": 2, "note": "kept"}
    (sharded / INDEX).write_text(json.dumps(document))
    checkpoint = open_checkpoint(sharded).drop(["h.1.mask"])
    rewrite(checkpoint, tmp_path / "out")
    assert index_of(tmp_path / "out")["metadata"] == {
        "total_size": checkpoint.nbytes,
        "total_parameters": sum(t.numel for t in checkpoint.values()),
        "note": "kept",
    }


def test_same_source_and_options_same_bytes(sharded: Path, tmp_path: Path) -> None:
    rewrite(with_edits(sharded), tmp_path / "one", max_shard_bytes=70)
    rewrite(with_edits(sharded), tmp_path / "two", max_shard_bytes=70, hashes=False)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_config_that_only_looks_equal_is_written(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    rewrite(checkpoint.with_config({**checkpoint.config, "n_layer": True}), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["n_layer"] is True


def test_modes_follow_the_umask_not_the_source(source: Path, tmp_path: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            path.chmod(0o755)
    before = os.umask(0o027)
    try:
        rewrite(open_checkpoint(source), tmp_path / "out")
    finally:
        os.umask(before)
    modes = {
        path.is_dir(): stat.S_IMODE(path.stat().st_mode)
        for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    }
    assert modes == {True: 0o750, False: 0o640}


def test_tensors_are_aligned_when_the_header_is_ours(tmp_path: Path) -> None:
    odd = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(2, dtype=torch.float64)}
    save(tmp_path / "source", {"model.safetensors": odd})
    checkpoint = open_checkpoint(tmp_path / "source").rename({"a": "0"})
    rewrite(checkpoint, tmp_path / "out")
    run = open_checkpoint(tmp_path / "out")["b"].range
    assert run is not None
    assert run.offset % 8 == 0


def test_nonfinite_weights_are_refused_or_let_through(tmp_path: Path) -> None:
    tensors = {"bad": torch.tensor([1.0, float("nan"), float("inf")]), "ok": torch.ones(2)}
    checkpoint = open_checkpoint(save(tmp_path / "s", {"model.safetensors": tensors}))
    with pytest.raises(CheckpointError, match="bad holds 1 NaN and 1 infinite"):
        rewrite(checkpoint, tmp_path / "out", refuse_nonfinite=True)
    assert not (tmp_path / "out").exists()
    rewrite(checkpoint, tmp_path / "out")
    assert (tmp_path / "out").exists()


def test_a_map_that_makes_nan_is_caught_in_the_same_pass(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    broken = checkpoint["embed.weight"].map(lambda t: t / 0)
    with pytest.raises(CheckpointError, match=r"embed\.weight"):
        rewrite(
            checkpoint.override({"embed.weight": broken}), tmp_path / "out", refuse_nonfinite=True
        )


def test_a_side_file_may_not_take_the_name_of_weights(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source).with_files({"model.safetensors": b""})
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        rewrite(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("code", [18, 22, 38, 95])  # EXDEV EINVAL ENOSYS EOPNOTSUPP
def test_without_copy_in_the_kernel_the_bytes_are_the_same(
    source: Path, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.copy_file_range, []

    def fails_the_second_time(*arguments: int) -> int:
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError(code, os.strerror(code))
        return real(arguments[0], arguments[1], min(arguments[2], 10), *arguments[3:])

    monkeypatch.setattr(os, "copy_file_range", fails_the_second_time)
    rewrite(open_checkpoint(source), tmp_path / "out", hashes=False)
    assert len(calls) > 1
    assert tree(tmp_path / "out") == tree(source)


def test_a_short_write_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def lies(descriptor: int, data: memoryview) -> int:
        return len(data) if len(data) == 176 else real(descriptor, data)  # embed.weight's bytes

    monkeypatch.setattr(os, "write", lies)
    with pytest.raises(SurgeryError, match=r"internal error: model\.safetensors is at"):
        rewrite(open_checkpoint(source), tmp_path / "out", refuse_nonfinite=True)
    assert not (tmp_path / "out").exists()


def test_every_file_is_synced_before_the_rename(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    rewrite(open_checkpoint(source), tmp_path / "out")
    out = tmp_path / "out"
    assert {path.stat().st_ino for path in [out, *out.rglob("*"), tmp_path]} <= synced


def test_weights_alone_can_be_written_anywhere(source: Path, tmp_path: Path) -> None:
    """As the proof on the twin does: no staging."""
    (tmp_path / "twin").mkdir()
    write_weights(open_checkpoint(source), tmp_path / "twin")
    assert tree(tmp_path / "twin") == tree(source)


def test_untouched_neighbours_are_copied_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = save(tmp_path / "s")
    save_file({f"t{i}": torch.ones(10) for i in range(50)}, directory / "model.safetensors")
    runs: list[int] = []
    real = sink_module.Sink.copy

    def note(self: sink_module.Sink, run: object) -> None:
        runs.append(1)
        real(self, run)  # type: ignore[arg-type]

    monkeypatch.setattr(sink_module.Sink, "copy", note)
    checkpoint = open_checkpoint(directory).without_files([*SIDE_FILES])
    rewrite(checkpoint, tmp_path / "one")
    assert len(runs) == 1
    edited = checkpoint.override({"t20": LazyTensor.of(torch.zeros(10))})
    rewrite(edited, tmp_path / "two")
    assert len(runs) == 3
