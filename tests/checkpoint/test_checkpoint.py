"""Opening and editing: what a Checkpoint says of itself; edits never touch the original."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from normsurgery.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from normsurgery.errors import SurgeryError, UsageError
from tests.checkpoint.conftest import CONFIG, SIDE_FILES, save, toy_tensors, tree, two_shards


def test_describes_what_is_there(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    assert set(checkpoint) == set(toy_tensors())
    assert checkpoint.config == CONFIG
    assert list(checkpoint.config) == list(CONFIG)
    assert checkpoint.model_id == "sharded"
    assert checkpoint.revision is None
    assert checkpoint.metadata == {"format": "pt"}
    assert checkpoint.directory == sharded.resolve()
    assert checkpoint.side_files == tuple(sorted(SIDE_FILES))
    assert [path.name for path in checkpoint.weight_files] == list(two_shards())
    for file, tensors in two_shards().items():
        for name, tensor in tensors.items():
            assert checkpoint.shards[name] == file
            assert checkpoint[name].shape == tuple(tensor.shape)
    assert checkpoint.nbytes == sum(t.nbytes for t in toy_tensors().values())
    assert "6 tensors" in repr(checkpoint)


def test_other_weights_and_bookkeeping_are_not_carried_over(tmp_path: Path) -> None:
    others = [
        "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.fp16.safetensors",
        "onnx/model.onnx", "original/consolidated.00.pth", "checkpoint-500/model.safetensors",
        "q4.gguf",
    ]  # fmt: skip
    carried = ["training_args.bin", "2_Dense/model.safetensors", "vocab/merges.txt"]
    hidden = [".cache/huggingface/x", ".gitattributes", ".git/config"]
    save(tmp_path / "m", side_files=dict.fromkeys(others + carried + hidden, b"x"))
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.side_files == tuple(sorted(carried))
    assert checkpoint.left_out == tuple(sorted(others))


def test_fp8_tensors_without_a_quantizer_are_welcome(tmp_path: Path) -> None:
    fp8 = torch.ones(4).to(torch.float8_e4m3fn)
    save(tmp_path / "m", {"model.safetensors": {"w": fp8}})
    assert open_checkpoint(tmp_path / "m")["w"].dtype == "F8_E4M3"


def test_an_index_over_the_single_file_agrees(source: Path) -> None:
    document = {"weight_map": dict.fromkeys(toy_tensors(), "model.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(document))
    assert len(open_checkpoint(source)) == 6


@pytest.mark.parametrize("shared_store", [False, True])
def test_a_snapshot_in_the_hub_cache_may_link_to_its_blobs(
    tmp_path: Path, shared_store: bool
) -> None:
    real = save(tmp_path / "real")
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "abc123"
    blobs = tmp_path / "hub" / "blobs" / "ab" if shared_store else repository / "blobs"
    for directory in (snapshot, blobs, repository / "blobs"):
        directory.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (real / name).rename(blobs / name)
        if shared_store:
            (repository / "blobs" / name).symlink_to(blobs / name)
        (snapshot / name).symlink_to(os.path.relpath(repository / "blobs" / name, snapshot))
    checkpoint = open_checkpoint(snapshot)
    assert (checkpoint.model_id, checkpoint.revision) == ("org/name", "abc123")
    assert torch.equal(checkpoint["scale"].load(), toy_tensors()["scale"])


def test_links_inside_the_directory_are_fine(source: Path) -> None:
    (source / "model.safetensors").rename(source / "weights.data")
    (source / "model.safetensors").symlink_to("weights.data")
    assert len(open_checkpoint(source)) == 6


def test_a_huge_sparse_checkpoint_opens_from_its_header(tmp_path: Path) -> None:
    size = 200 * 10**9
    header = json.dumps({"t": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    save(tmp_path / "m")
    with (tmp_path / "m" / "model.safetensors").open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(8 + len(header) + size)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.nbytes == size
    assert checkpoint["t"].rows(size - 3, size).tolist() == [0, 0, 0]


def edited(checkpoint: Checkpoint) -> list[Checkpoint]:
    one = LazyTensor.of(torch.ones(1))
    return [
        checkpoint.override({"scale": LazyTensor.of(torch.tensor(1.0))}),
        checkpoint.rename({"scale": "gain"}),
        checkpoint.drop(["scale"]),
        checkpoint.add({"new": one}, beside="scale"),
        checkpoint.with_config({"a": 1}),
        checkpoint.with_files({"tokenizer.json": b"new"}),
        checkpoint.without_files(["tokenizer.json"]),
    ]


def test_edits_leave_the_original_alone(source: Path) -> None:
    checkpoint = open_checkpoint(source)
    files = tree(source)
    tensors, config, side = dict(checkpoint), dict(checkpoint.config), checkpoint.side_files
    for one in edited(checkpoint):
        assert one is not checkpoint
    assert dict(checkpoint) == tensors
    assert (checkpoint.config, checkpoint.side_files, checkpoint.extra_files) == (config, side, {})
    assert tree(source) == files


def test_override_replaces_contents_in_place(source: Path) -> None:
    checkpoint = open_checkpoint(source)
    result = checkpoint.override({"scale": LazyTensor.of(torch.tensor([1.0, 2.0]))})
    assert list(result) == list(checkpoint)
    assert result["scale"].load().tolist() == [1.0, 2.0]
    assert result["scale"].label == "scale"


def test_names_can_be_swapped(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    swapped = checkpoint.rename({"scale": "embed.weight", "embed.weight": "scale"})
    assert torch.equal(swapped["embed.weight"].load(), toy_tensors()["scale"])
    assert swapped.shards["embed.weight"] == checkpoint.shards["scale"]
    assert swapped["embed.weight"].label == "embed.weight"


def test_added_tensors_go_beside(sharded: Path) -> None:
    checkpoint = open_checkpoint(sharded)
    result = checkpoint.add({"new": LazyTensor.of(torch.ones(1))}, beside="scale")
    names = list(result)
    assert names[names.index("scale") + 1] == "new"
    assert result.shards["new"] == checkpoint.shards["scale"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda c: c.override({"ghost": c["scale"]}),
        lambda c: c.rename({"ghost": "a"}),
        lambda c: c.rename({"scale": "none"}),
        lambda c: c.rename({"scale": "a", "none": "a"}),
        lambda c: c.drop(["ghost"]),
        lambda c: c.add({"scale": c["scale"]}, beside="none"),
        lambda c: c.add({"new": c["scale"]}, beside="ghost"),
        lambda c: c.without_files(["ghost"]),
    ],
)
def test_edits_of_what_is_not_there_are_internal_errors(source: Path, wrong: object) -> None:
    with pytest.raises(SurgeryError, match="internal error"):
        wrong(open_checkpoint(source))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../b", "", ".", "a//b", "a/"])
def test_added_files_stay_inside(source: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a file name"):
        open_checkpoint(source).with_files({name: b""})


def test_config_is_copied_in(source: Path) -> None:
    config = {"nested": {"a": 1}}
    result = open_checkpoint(source).with_config(config)
    config["nested"]["a"] = 2
    assert result.config == {"nested": {"a": 1}}
