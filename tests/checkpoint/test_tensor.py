"""LazyTensor: what is read, when, and in which pieces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from normsurgery.checkpoint import LazyTensor, open_checkpoint
from normsurgery.checkpoint import tensor as tensor_module
from normsurgery.checkpoint.dtypes import BITS
from normsurgery.errors import CheckpointError, SurgeryError
from tests.checkpoint.conftest import CONFIG, raw_file, save, toy_tensors


def raw(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def stored(tmp_path: Path, tensor: Tensor, *, lead: int = 0) -> LazyTensor:
    """A file-backed tensor; `lead` bytes before it put it off its natural alignment."""
    pad = {"pad": torch.zeros(lead, dtype=torch.uint8)} if lead else {}
    directory = tmp_path / "source"
    save(directory, {"model.safetensors": {"t": tensor, **pad}})
    return open_checkpoint(directory)["t"]


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_module, "SLAB_BYTES", 64)


def test_every_tensor_loads_as_saved(source: Path) -> None:
    checkpoint = open_checkpoint(source)
    for name, tensor in toy_tensors().items():
        loaded = checkpoint[name].load()
        assert loaded.dtype == tensor.dtype
        assert torch.equal(loaded, tensor)
        assert b"".join(checkpoint[name].chunks(5)) == raw(tensor)


@pytest.mark.parametrize("max_bytes", [1, 3, 16, 1000])
@pytest.mark.parametrize("kind", ["file", "memory", "computed", "mapped"])
def test_chunks_are_bounded_and_complete(
    tmp_path: Path, kind: str, max_bytes: int, small_slabs: None
) -> None:
    value = torch.arange(60, dtype=torch.float32).reshape(15, 4)
    tensor = {
        "file": stored(tmp_path, value),
        "memory": LazyTensor.of(value),
        "computed": LazyTensor.compute(lambda: value, "F32", (15, 4)),
        "mapped": stored(tmp_path / "other", value - 1).map(lambda t: t + 1, by_rows=True),
    }[kind]
    chunks = list(tensor.chunks(max_bytes))  # a list: earlier chunks must outlive later ones
    assert max(len(chunk) for chunk in chunks) <= max_bytes
    assert b"".join(chunks) == raw(value)


@pytest.mark.parametrize("bounds", [(0, 0), (0, 3), (2, 5), (5, 11), (0, 11)])
def test_rows_are_the_slice(source: Path, bounds: tuple[int, int]) -> None:
    whole = toy_tensors()["embed.weight"]
    tensor = open_checkpoint(source)["embed.weight"]
    start, stop = bounds
    doubled = tensor.map(lambda t: t * 2, by_rows=True)
    reversed_columns = tensor.map(lambda t: t.flip(1))
    assert torch.equal(tensor.rows(start, stop), whole[start:stop])
    assert torch.equal(doubled.rows(start, stop), whole[start:stop] * 2)
    assert torch.equal(reversed_columns.rows(start, stop), whole.flip(1)[start:stop])
    assert torch.equal(LazyTensor.of(whole).rows(start, stop), whole[start:stop])


def test_rows_outside_are_an_error(source: Path) -> None:
    checkpoint = open_checkpoint(source)
    with pytest.raises(IndexError, match="embed"):
        checkpoint["embed.weight"].rows(3, 12)
    with pytest.raises(IndexError, match="scale"):
        checkpoint["scale"].rows(0, 1)


def test_a_rowwise_map_sees_slabs_and_never_the_whole(tmp_path: Path, small_slabs: None) -> None:
    value = torch.arange(200, dtype=torch.float32).reshape(50, 4)
    seen: list[int] = []

    def double(slab: Tensor) -> Tensor:
        seen.append(len(slab))
        return slab * 2

    tensor = stored(tmp_path, value).map(double, by_rows=True).map(torch.neg, by_rows=True)
    assert b"".join(tensor.chunks(1 << 20)) == raw(value * -2)
    assert sum(seen) == 50
    assert max(seen) == 4  # 64 bytes of 16-byte rows


def test_a_map_that_is_not_rowwise_sees_the_whole_once(tmp_path: Path, small_slabs: None) -> None:
    value = torch.arange(200, dtype=torch.float32).reshape(50, 4)
    seen: list[int] = []

    def centre(whole: Tensor) -> Tensor:
        seen.append(len(whole))
        return whole - whole.mean(0)

    tensor = stored(tmp_path, value).map(centre).map(lambda t: t * 2, by_rows=True)
    assert b"".join(tensor.chunks(100)) == raw((value - value.mean(0)) * 2)
    assert seen == [50]


def test_a_scalar_and_an_empty_tensor_can_be_mapped(source: Path) -> None:
    checkpoint = open_checkpoint(source)
    assert checkpoint["scale"].map(lambda t: t * 2, by_rows=True).load().item() == 7.0
    assert checkpoint["none"].map(lambda t: t * 2, by_rows=True).load().shape == (0, 3)
    assert list(checkpoint["none"].chunks(8)) == []


def test_nothing_is_read_until_asked(tmp_path: Path) -> None:
    calls: list[str] = []

    def make() -> Tensor:
        calls.append("made")
        return torch.ones(2)

    tensor = LazyTensor.compute(make, "F32", (2,)).map(lambda t: t + 1)
    assert (tensor.nbytes, tensor.numel, tensor.shape, calls) == (8, 2, (2,), [])
    assert tensor.load().tolist() == [2.0, 2.0]
    assert calls == ["made"]


@pytest.mark.parametrize(
    ("function", "words"),
    [(Tensor.double, "came out as F64"), (lambda t: t[:2], r"came out as F32 \[2, 4\]")],
)
@pytest.mark.parametrize("by_rows", [False, True])
def test_a_function_that_changes_dtype_or_shape_is_named(
    source: Path, function: object, words: str, by_rows: bool
) -> None:
    tensor = open_checkpoint(source)["embed.weight"].map(function, by_rows=by_rows)  # type: ignore[arg-type]
    with pytest.raises(SurgeryError, match=rf"internal error: embed\.weight {words}"):
        tensor.load()
    with pytest.raises(SurgeryError, match=words):
        list(tensor.chunks(1000))


def test_loading_is_a_private_map_of_the_file(source: Path) -> None:
    before = (source / "model.safetensors").read_bytes()
    checkpoint = open_checkpoint(source)
    checkpoint["embed.weight"].load().zero_()
    assert (source / "model.safetensors").read_bytes() == before
    assert torch.equal(checkpoint["embed.weight"].load(), toy_tensors()["embed.weight"])


def test_ranges_point_at_the_bytes(source: Path) -> None:
    for tensor in open_checkpoint(source).values():
        run = tensor.range
        assert run is not None
        assert run.path.read_bytes()[run.offset : run.offset + run.length] == raw(tensor.load())
        assert tensor.map(torch.clone).range is None


def test_misaligned_tensors_load(tmp_path: Path) -> None:
    """The library aligns; other writers need not."""
    value = torch.arange(5, dtype=torch.float64)
    header = {
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "b": {"dtype": "F64", "shape": [5], "data_offsets": [3, 43]},
    }
    save(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").write_bytes(raw_file(header, b"abc" + raw(value)))
    tensor = open_checkpoint(tmp_path / "source")["b"]
    assert torch.equal(tensor.load(), value)
    assert torch.equal(tensor.rows(1, 4), value[1:4])
    assert tensor.load().data_ptr() % 8 == 0


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_dtype_passes_through_and_loads_where_torch_has_it(
    tmp_path: Path, dtype: str
) -> None:
    data = bytes(range(BITS[dtype])) * 2  # 16 elements
    if dtype == "BOOL":
        data = bytes([0, 1] * 8)
    header = {"t": {"dtype": dtype, "shape": [4, 4], "data_offsets": [0, len(data)]}}
    save(tmp_path / "source", config=CONFIG)
    (tmp_path / "source" / "model.safetensors").write_bytes(raw_file(header, data))
    tensor = open_checkpoint(tmp_path / "source")["t"]
    assert b"".join(tensor.chunks(7)) == data
    if dtype.startswith("F6_"):
        with pytest.raises(CheckpointError, match=dtype):
            tensor.load()
        return
    held = LazyTensor.of(tensor.load())
    assert (held.dtype, held.shape, held.nbytes) == (dtype, (4, 4), len(data))
    assert b"".join(held.chunks(7)) == data
    assert b"".join(tensor.map(torch.clone).chunks(7)) == data
    assert (
        b"".join(LazyTensor.of(tensor.rows(1, 3)).chunks(99))
        == data[len(data) // 4 :][: len(data) // 2]
    )


def test_rows_of_packed_elements_that_share_a_byte_are_refused(tmp_path: Path) -> None:
    header = {"t": {"dtype": "F4", "shape": [2, 3], "data_offsets": [0, 3]}}
    save(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").write_bytes(raw_file(header, b"abc"))
    with pytest.raises(CheckpointError, match=r"t: rows of F4 \[2, 3\]"):
        open_checkpoint(tmp_path / "source")["t"].rows(0, 1)


def test_views_are_written_in_their_own_order() -> None:
    value = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    assert b"".join(LazyTensor.of(value.T).chunks(9)) == raw(value.T.contiguous())
    twisted = torch.tensor([1 + 2j, 3 - 4j]).conj()
    assert b"".join(LazyTensor.of(twisted).chunks(9)) == raw(twisted.resolve_conj())


def test_a_dtype_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(CheckpointError, match="complex128"):
        LazyTensor.of(torch.zeros(1, dtype=torch.complex128))


def test_reading_headers_and_copying_leaves_torch_out(source: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from normsurgery.checkpoint import open_checkpoint, write_weights\n"
        "checkpoint = open_checkpoint(sys.argv[1])\n"
        "Path(sys.argv[2]).mkdir(); write_weights(checkpoint, Path(sys.argv[2]))\n"
        "assert not {'torch', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, source, tmp_path / "out"], check=True)
    assert (tmp_path / "out" / "model.safetensors").exists()
