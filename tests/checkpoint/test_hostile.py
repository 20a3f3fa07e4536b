"""Every way a checkpoint can lie: exit code 3, one line that names the culprit, a hint, no file."""

from __future__ import annotations

import json
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import CheckpointError
from tests.checkpoint.conftest import CONFIG, raw_file, rewrite, save, save_index, two_shards

Builder = Callable[[Path], Any]
INDEX = "model.safetensors.index.json"
FIRST, SECOND = two_shards()


def entry(begin: int = 0, end: int = 4, dtype: Any = "F32", shape: Any = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def weights(header: Any, data: bytes = b"", length: int | None = None) -> Builder:
    """A checkpoint whose only weight file is made of these bytes."""

    def build(directory: Path) -> None:
        save(directory)
        (directory / "model.safetensors").write_bytes(raw_file(header, data, length))

    return build


def bare(data: bytes) -> Builder:
    def build(directory: Path) -> None:
        save(directory)
        (directory / "model.safetensors").write_bytes(data)

    return build


def config(text: bytes) -> Builder:
    def build(directory: Path) -> None:
        save(directory)
        (directory / "config.json").write_bytes(text)

    return build


def config_with(**keys: Any) -> Builder:
    return config(json.dumps({**CONFIG, **keys}).encode())


def index(text: bytes) -> Builder:
    def build(directory: Path) -> None:
        save(directory, two_shards())
        (directory / INDEX).write_bytes(text)

    return build


def claims(**changed: Any) -> Builder:
    """A two-shard checkpoint whose index says something else about some tensors."""

    def build(directory: Path) -> None:
        save(directory, two_shards())
        honest = {name: file for file, held in two_shards().items() for name in held}
        merged = {**honest, **{key.replace("_dot_", "."): v for key, v in changed.items()}}
        save_index(directory, {name: file for name, file in merged.items() if file is not None})

    return build


def only(name: str, data: bytes = b"GGUF") -> Builder:
    """A directory with a configuration and one file, but no safetensors."""

    def build(directory: Path) -> None:
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(CONFIG))
        (directory / name).write_bytes(data)

    return build


def replaced(name: str, make: Callable[[Path], Any]) -> Builder:
    """An honest checkpoint with one of its files replaced by what `make` puts there."""

    def build(directory: Path) -> None:
        save(directory, two_shards() if "-of-" in name or name == INDEX else None)
        (directory / name).unlink(missing_ok=True)
        make(directory / name)

    return build


def link_out(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / path.name).write_bytes(b"secret")
    path.symlink_to(outside / path.name)


def bind_socket(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:  # by way of /proc: the path itself may be too long for a socket's name
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{descriptor}/{path.name}")
    finally:
        os.close(descriptor)


def both_kinds(directory: Path) -> None:
    save(directory, two_shards())
    save(directory)


def shard_missing(directory: Path) -> None:
    save(directory, two_shards())
    (directory / SECOND).unlink()


def in_both_shards(directory: Path) -> None:
    save(directory, two_shards())
    shards = two_shards()
    shards[SECOND]["embed.weight"] = shards[FIRST]["embed.weight"]
    honest = {name: file for file, held in two_shards().items() for name in held}
    save(directory, shards)
    save_index(directory, honest)


def unreadable(directory: Path) -> None:
    save(directory)
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("x" * 250 + "/" + "y" * 250)


def no_index(directory: Path) -> None:
    save(directory, two_shards())
    (directory / INDEX).unlink()


def with_side_file(name: str) -> Builder:
    def build(directory: Path) -> None:
        save(directory, side_files={name: b"{}"})

    return build


def nonfinite(value: float, dtype: torch.dtype) -> Builder:
    def build(directory: Path) -> None:
        weight = torch.ones(7, dtype=torch.float32)
        weight[3] = value
        save(directory, {"model.safetensors": {"good": torch.ones(3), "bad": weight.to(dtype)}})

    return build


def pickled(path: Path) -> None:
    save(path)
    (path / "model.safetensors").unlink()
    torch.save({"a": torch.ones(2)}, path / "pytorch_model.bin")


E2 = {"a": entry(0, 4), "b": entry(4, 8)}
DEEP = b"[" * 200_000
LAYERS = 10**9

CASES: list[tuple[str, Builder, tuple[str, ...]]] = [
    # header of one file
    ("empty file", bare(b""), ("model.safetensors", "0 bytes")),
    ("seven bytes", bare(b"1234567"), ("model.safetensors", "7 bytes")),
    ("header longer than file", weights({}, length=1000), ("1,000 bytes", "model.safetensors")),
    ("header of 2^63", weights({}, length=2**63), ("model.safetensors", "more than the format")),
    ("header length zero", bare(bytes(8)), ("model.safetensors", "does not begin")),
    ("header of 100 GB", weights({}, length=10**11), ("100,000,000,000", "more than the format")),
    ("header is not JSON", weights(b"{nonsense}"), ("model.safetensors", "not JSON")),
    ("header is a list", weights(b"[1, 2]"), ("model.safetensors", "does not begin")),
    ("header of bad UTF-8", weights(b'{"\xff": 1}'), ("model.safetensors", "not UTF-8")),
    ("header nested deeply", weights(b'{"a":' + DEEP), ("model.safetensors", "nested too deeply")),
    ("number of 10^5 digits", weights(b'{"a":' + b"9" * 100_000 + b"}"), ("absurd number",)),
    ("name twice", weights(b'{"a": 1, "a": 2}'), ("model.safetensors", "names a twice")),
    ("lone surrogate", weights(b'{"\\ud800": 1}'), ("model.safetensors", "surrogate")),
    ("tensor is a number", weights({"a": 1}), ("tensor a", "not described")),
    ("no dtype", weights({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), ("tensor a",)),
    ("unknown dtype", weights({"a": entry(dtype="F31")}, bytes(4)), ("tensor a", "F31")),
    ("dtype is a list", weights({"a": entry(dtype=["F32"])}, bytes(4)), ("tensor a", "dtype")),
    ("negative size", weights({"a": entry(shape=(-1,))}, bytes(4)), ("tensor a", "shape")),
    ("size is true", weights({"a": entry(shape=(True,))}, bytes(4)), ("tensor a", "shape")),
    ("size is 1.0", weights({"a": entry(shape=(1.0,))}, bytes(4)), ("tensor a", "shape")),
    ("size overflows", weights({"a": entry(shape=(2**62, 4))}, bytes(4)), ("tensor a", "fit")),
    ("size of 2^70, empty", weights({"a": entry(0, 0, shape=(0, 2**70))}), ("tensor a", "fit")),
    ("many huge sizes", weights({"a": entry(shape=(2**60,) * 50_000)}, bytes(4)), ("tensor a",)),
    ("shape against bytes", weights({"a": entry(shape=(2,))}, bytes(4)), ("tensor a", "4 bytes")),
    ("dtype against bytes", weights({"a": entry(dtype="F64")}, bytes(4)), ("tensor a", "F64")),
    ("half a byte", weights({"a": entry(0, 1, "F4", (3,))}, b"1"), ("tensor a", "F4")),
    ("offsets reversed", weights({"a": entry(4, 0)}, bytes(4)), ("tensor a", "offsets")),
    ("offsets negative", weights({"a": entry(-4, 0)}, bytes(4)), ("tensor a", "offsets")),
    ("three offsets", weights({"a": {**entry(), "data_offsets": [0, 4, 4]}}, bytes(4)),
     ("tensor a", "offsets")),
    ("past the end", weights({"a": entry(0, 4), "b": entry(4, 8)}, bytes(7)), ("tensor b", "past")),
    ("far past the end", weights({"a": entry(2**62, 2**62 + 4)}, bytes(4)), ("tensor a", "past")),
    ("overlap", weights({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), ("tensor b", "overlaps")),
    ("two in one place", weights({"a": entry(), "b": entry()}, bytes(4)), ("overlaps",)),
    ("hole", weights({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), ("4 bytes before",)),
    ("hole at the start", weights({"a": entry(4, 8)}, bytes(8)), ("4 bytes before tensor a",)),
    ("bytes left over", weights(E2, bytes(9)), ("model.safetensors", "1 bytes at the end")),
    ("metadata is a list", weights({"__metadata__": []}), ("__metadata__", "model.safetensors")),
    ("metadata of numbers", weights({"__metadata__": {"a": 1}}), ("__metadata__",)),
    ("no tensors", weights({}), ("model.safetensors", "no tensors")),
    ("name with a newline", weights({"a\nb": entry(0, 9)}, bytes(9)), ("tensor a\\nb",)),
    # index and shards
    ("index is not JSON", index(b"{"), (INDEX, "not JSON")),
    ("index is a list", index(b"[]"), (INDEX, "not a JSON object")),
    ("index without map", index(b'{"metadata": {}}'), (INDEX, "weight_map")),
    ("index map empty", index(b'{"weight_map": {}}'), (INDEX, "weight_map")),
    ("index claims twice", index(b'{"weight_map": {"a": "x", "a": "y"}}'), (INDEX, "a twice")),
    ("index to a number", claims(scale=3), (INDEX, "scale")),
    ("index to the parent", claims(scale="../outside.safetensors"), (INDEX, "scale", "../outside")),
    ("index to an absolute path", claims(scale="/etc/passwd.safetensors"), ("scale", "/etc")),
    ("index to a subdirectory", claims(scale="sub/a.safetensors"), ("scale", "outside")),
    ("index to a hidden file", claims(scale=".a.safetensors"), ("scale", "outside")),
    ("index to a pickle", claims(scale="a.bin"), ("scale", "a.bin")),
    ("index with a NUL", claims(scale="a\0.safetensors"), ("scale", "a\\x00")),
    ("index to an absent file", claims(scale="other.safetensors"), ("other", "missing")),
    ("index lists what is not there", claims(ghost=FIRST), (FIRST, "lacks ghost")),
    ("index leaves one out", claims(scale=None), (SECOND, "holds scale")),
    ("index mixes up files", claims(scale=FIRST), ("scale", SECOND, FIRST)),
    ("a tensor in two shards", in_both_shards, ("embed.weight", FIRST, SECOND)),
    ("shard missing", shard_missing, (SECOND, "missing")),
    ("shards without index", no_index, ("2 shards", INDEX)),
    ("file and index disagree", both_kinds, ("model.safetensors", INDEX)),
    # what is not a file
    ("weights are a FIFO", replaced("model.safetensors", os.mkfifo), ("model.safetensors", "FIFO")),
    ("weights are a directory", replaced("model.safetensors", Path.mkdir), ("a directory",)),
    ("weights are a socket", replaced("model.safetensors", bind_socket), ("model.safetensors",)),
    ("weights link out", replaced("model.safetensors", link_out), ("model.safetensors", "outside")),
    ("weights link to nothing", replaced("model.safetensors", lambda p: p.symlink_to("gone")),
     ("model.safetensors", "missing")),
    ("weights link to themselves", replaced("model.safetensors", lambda p: p.symlink_to(p.name)),
     ("model.safetensors",)),
    ("weights link to a long name", unreadable, ("model.safetensors",)),
    ("shard is a FIFO", replaced(FIRST, os.mkfifo), (FIRST, "FIFO")),
    ("shard links out", replaced(SECOND, link_out), (SECOND, "outside")),
    ("index is a FIFO", replaced(INDEX, os.mkfifo), (INDEX, "FIFO")),
    ("index links out", replaced(INDEX, link_out), (INDEX, "outside")),
    ("config is a FIFO", replaced("config.json", os.mkfifo), ("config.json", "FIFO")),
    ("config is a directory", replaced("config.json", Path.mkdir), ("config.json", "a directory")),
    ("config links out", replaced("config.json", link_out), ("config.json", "outside")),
    ("side file links out", replaced("tokenizer.json", link_out), ("tokenizer.json", "outside")),
    ("side file is a FIFO", replaced("tokenizer.json", os.mkfifo), ("tokenizer.json", "neither")),
    ("side file links to nothing", replaced("notes", lambda p: p.symlink_to("gone")), ("notes",)),
    # configuration
    ("config absent", replaced("config.json", lambda path: None), ("config.json",)),
    ("config is empty", config(b""), ("config.json", "not JSON")),
    ("config is a list", config(b"[]"), ("config.json", "not a JSON object")),
    ("config of bad UTF-8", config(b'{"a": "\xff"}'), ("config.json", "UTF-8")),
    ("config nested deeply", config(b'{"a":' + DEEP), ("config.json", "nested")),
    ("config nested 100 deep", config_with(a=json.loads("[" * 100 + "]" * 100)), ("nested",)),
    ("config of 17 MB", config(b" " * (17 << 20)), ("config.json", "17,825,792 bytes")),
    ("10^9 layers", config_with(n_layer=LAYERS), ("1,000,000,000 layers", "n_layer", "6 tensors")),
    ("10^9 hidden layers", config_with(num_hidden_layers=LAYERS), ("num_hidden_layers",)),
    ("10^9 layers, nested", config_with(text_config={"encoder_layers": LAYERS}),
     ("encoder_layers",)),
    ("10^1000 layers", config_with(n_layer=10**1000), ("n_layer",)),
    # other kinds of checkpoint
    ("no weights", only("README.md"), ("no weights",)),
    ("PEFT adapter", with_side_file("adapter_config.json"), ("PEFT adapter",)),
    ("GGUF", only("model-q4.gguf"), ("model-q4.gguf", "GGUF")),
    ("TensorFlow", only("tf_model.h5"), ("tf_model.h5", "TensorFlow")),
    ("pickle not allowed", pickled, ("pytorch_model.bin",)),
    ("GPTQ", config_with(quantization_config={"quant_method": "gptq"}), ("GPTQ",)),
    ("AWQ", config_with(quantization_config={"quant_method": "awq"}), ("AWQ",)),
    ("bitsandbytes", config_with(quantization_config={"load_in_4bit": True}), ("bitsandbytes",)),
    ("FP8", config_with(quantization_config={"quant_method": "fp8"}), ("FP8",)),
    ("quantized, unnamed", config_with(quantization_config={"bits": 3}), ("quantized",)),
    ("quantized, a string", config_with(quantization_config="yes"), ("quantized",)),
    ("quantized inside", config_with(text_config={"quantization_config": {"quant_method": "awq"}}),
     ("AWQ",)),
    ("AutoGPTQ's side file", with_side_file("quantize_config.json"), ("GPTQ",)),
    ("packed tensors", weights({"h.0.qweight": entry()}, bytes(4)), ("h.0.qweight", "GPTQ")),
    # contents
    ("NaN in F32", nonfinite(float("nan"), torch.float32), ("bad", "1 NaN")),
    ("NaN in BF16", nonfinite(float("nan"), torch.bfloat16), ("bad", "1 NaN")),
    ("infinity in F16", nonfinite(float("-inf"), torch.float16), ("bad", "1 infinite")),
]  # fmt: skip


@pytest.mark.parametrize(("build", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_refused_in_one_line_and_nothing_written(
    tmp_path: Path, build: Builder, words: tuple[str, ...]
) -> None:
    source = tmp_path / "source"
    build(source)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(CheckpointError) as caught:
        rewrite(open_checkpoint(source), tmp_path / "out", refuse_nonfinite=True)
    error = caught.value
    assert error.exit_code == 3
    assert error.hint
    assert error.message.isprintable(), "one line"
    assert error.hint.isprintable()
    assert len(error.message) < 400
    assert str(tmp_path) not in error.message
    for word in words:
        assert word in error.message
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_the_cases_differ_from_an_honest_checkpoint(source: Path, sharded: Path) -> None:
    """The negative control: what the builders start from is accepted."""
    assert len(open_checkpoint(source)) == 6
    assert len(open_checkpoint(sharded)) == 6


def test_every_kind_of_refusal_has_its_own_words(tmp_path: Path) -> None:
    kinds = ["PEFT adapter", "GGUF", "GPTQ", "AWQ", "bitsandbytes", "FP8", "no weights"]
    messages = {}
    for name, build, _ in CASES:
        if name in kinds:
            build(tmp_path / name)
            with pytest.raises(CheckpointError) as caught:
                open_checkpoint(tmp_path / name)
            messages[name] = (caught.value.message.replace(name, ""), caught.value.hint)
    assert len(messages) == len(kinds)
    assert len({hint for _, hint in messages.values()}) == len(kinds)


def test_a_gguf_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"m\.gguf is a GGUF"):
        open_checkpoint(tmp_path / "m.gguf")


def test_a_weight_file_is_not_a_checkpoint(source: Path) -> None:
    with pytest.raises(CheckpointError, match="not a directory"):
        open_checkpoint(source / "model.safetensors")


def test_what_is_neither_path_nor_id(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a directory nor a Hub id"):
        open_checkpoint(tmp_path / "absent" / "model")


def test_a_source_that_changes_while_it_is_written(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    weights_file = source / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="changed"):
        rewrite(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pickle_that_runs_code_is_refused_before_it_does(tmp_path: Path) -> None:
    save(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").unlink()
    flag = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (flag,))

    (tmp_path / "source" / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Attack()}))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "source", allow_pickle=True)
    assert "could run code" in caught.value.message
    assert not flag.exists()
