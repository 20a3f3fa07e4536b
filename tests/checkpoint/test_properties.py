"""Properties: any tensors survive both ways, no mutation of a header gets past, edits compose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from normsurgery.checkpoint import Checkpoint, LazyTensor, open_checkpoint, write_weights
from normsurgery.checkpoint.dtypes import BITS
from normsurgery.checkpoint.safetensors_file import encode_header
from normsurgery.errors import CheckpointError
from tests.checkpoint.conftest import CONFIG, raw_file

quiet = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
torch_dtypes = st.sampled_from(
    [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8,
     torch.float8_e4m3fn, torch.float8_e5m2, torch.bool, torch.complex64]
)  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype, shape = draw(torch_dtypes), draw(shapes)
    count = torch.Size(shape).numel() * dtype.itemsize
    data = draw(st.binary(min_size=count, max_size=count))
    if dtype == torch.bool:
        data = bytes(byte % 2 for byte in data)
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).reshape(shape)


state_dicts = st.dictionaries(names, tensors(), min_size=1, max_size=6)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def put(directory: Path, data: bytes) -> Path:
    (directory / "config.json").write_text(json.dumps(CONFIG | {"n_layer": 1}))
    (directory / "model.safetensors").write_bytes(data)
    return directory


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A new directory each time it is called: hypothesis runs a test many times over."""
    return lambda: tmp_path_factory.mktemp("case")


@quiet
@given(state_dicts)
def test_the_library_reads_what_we_write_and_we_read_what_it_writes(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, torch.Tensor]
) -> None:
    source, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    checkpoint = open_checkpoint(put(source, save(state)))
    assert {n: (raw(t.load()), t.shape) for n, t in checkpoint.items()} == {
        n: (raw(t), tuple(t.shape)) for n, t in state.items()
    }
    renamed = checkpoint.rename({name: f"{name}'" for name in state})  # a header of our own
    write_weights(renamed, out)
    loaded = load_file(out / "model.safetensors")
    assert {n: (raw(t), t.dtype, t.shape) for n, t in loaded.items()} == {
        f"{n}'": (raw(t), t.dtype, t.shape) for n, t in state.items()
    }


@quiet
@given(st.dictionaries(names, st.tuples(st.sampled_from(sorted(BITS)), shapes), max_size=6))
def test_the_library_accepts_our_headers_for_every_dtype(
    entries: dict[str, tuple[str, tuple[int, ...]]],
) -> None:
    sized = []
    for name, (dtype, shape) in entries.items():
        shape = (*shape, 8)  # whole bytes for the sub-byte types
        sized.append((name, dtype, shape, torch.Size(shape).numel() * BITS[dtype] // 8))
    header = encode_header({"k": "v"}, sized)
    found = dict(safetensors.deserialize(header + bytes(sum(entry[3] for entry in sized))))
    assert len(header) % 8 == 0
    assert {n: (v["dtype"], tuple(v["shape"]), len(v["data"])) for n, v in found.items()} == {
        n: (dtype, shape, size) for n, dtype, shape, size in sized
    }


HONEST = save({"a.weight": torch.ones(3, 4), "b": torch.zeros(5, dtype=torch.uint8)})


@settings(parent=quiet, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(HONEST) - 1), st.integers(0, 255)), max_size=6))
def test_no_mutation_raises_anything_but_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(HONEST)
    for position, value in changes:
        data[position] = value
    source = put(tmp_path_factory.mktemp("in"), bytes(data))
    try:
        checkpoint = open_checkpoint(source)
    except CheckpointError as error:
        assert error.message.isprintable()
        assert error.hint
        return
    # accepted: then every byte of the data belongs to one tensor, and reading stays inside
    assert sum(len(b"".join(t.chunks(7))) for t in checkpoint.values()) == checkpoint.nbytes
    assert sum(t.range.length for t in checkpoint.values() if t.range) == checkpoint.nbytes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {}, optional={"dtype": st.sampled_from(sorted(BITS)) | json_values,
                  "shape": st.lists(st.integers(-1, 2**65)) | json_values,
                  "data_offsets": st.lists(st.integers(-1, 64), max_size=3) | json_values},
)  # fmt: skip


@settings(parent=quiet, max_examples=300)
@given(st.dictionaries(names | st.just("__metadata__"), entries | json_values), st.binary())
def test_no_structured_lie_raises_anything_but_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], data: bytes
) -> None:
    source = put(tmp_path_factory.mktemp("in"), raw_file(header, data))
    try:
        checkpoint = open_checkpoint(source)
    except CheckpointError as error:
        assert error.message.isprintable()
        return
    assert checkpoint.nbytes == len(data)


@settings(parent=quiet, max_examples=100)
@given(json_values, st.binary(max_size=60))
def test_no_index_and_no_config_raises_anything_but_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, document: Any, text: bytes
) -> None:
    for name in ("config.json", "model.safetensors.index.json"):
        for data in (json.dumps(document).encode(), json.dumps({"weight_map": document}).encode(),
                     text):  # fmt: skip
            source = put(tmp_path_factory.mktemp("in"), HONEST)
            (source / name).write_bytes(data)
            try:
                open_checkpoint(source)
            except CheckpointError as error:
                assert error.message.isprintable()


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Edits by position, so that they make sense whatever came before."""
    place = st.integers(0, 99)
    step = st.one_of(
        st.tuples(st.just("map"), place, st.booleans()),
        st.tuples(st.just("rename"), place),
        st.tuples(st.just("swap"), place, place),
        st.tuples(st.just("drop"), place),
        st.tuples(st.just("add"), place, st.integers(0, 5)),
    )
    return draw(st.lists(step, max_size=8))


def start() -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(1)
    sizes = [(3, 4), (5,), (2, 2, 2), (7, 1), (1,)]
    return {f"t{i}": torch.randn(size, generator=made) for i, size in enumerate(sizes)}


def apply(
    step: tuple[Any, ...], number: int, lazy: Checkpoint, eager: dict[str, torch.Tensor]
) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    present = sorted(eager)
    name = present[step[1] % len(present)]
    if step[0] == "map":
        edit = lazy[name].map(lambda t: t * 3 + number, by_rows=step[2])
        return lazy.override({name: edit}), {**eager, name: eager[name] * 3 + number}
    if step[0] == "rename":
        new = f"{name}.{number}"
        return lazy.rename({name: new}), {new if n == name else n: t for n, t in eager.items()}
    if step[0] == "swap":
        other = present[step[2] % len(present)]
        names_of = {name: other, other: name}
        return lazy.rename(names_of), {names_of.get(n, n): t for n, t in eager.items()}
    if step[0] == "drop":
        if len(present) == 1:
            return lazy, eager
        return lazy.drop([name]), {n: t for n, t in eager.items() if n != name}
    tensor = torch.full((step[2],), float(number))
    added = {f"new{number}": LazyTensor.of(tensor)}
    return lazy.add(added, beside=name), {**eager, f"new{number}": tensor}


@settings(parent=quiet, max_examples=80)
@given(histories(), st.none() | st.integers(1, 200))
def test_lazy_edits_equal_eager_edits(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[tuple[Any, ...]],
    max_shard_bytes: int | None,
) -> None:
    eager = start()
    lazy = open_checkpoint(put(tmp_path_factory.mktemp("in"), save(eager)))
    for number, step in enumerate(history):
        lazy, eager = apply(step, number, lazy, eager)
    out = tmp_path_factory.mktemp("out")
    write_weights(lazy, out, max_shard_bytes=max_shard_bytes)
    reopened = open_checkpoint(out)
    assert sorted(reopened) == sorted(eager)
    for name, tensor in eager.items():
        assert torch.equal(reopened[name].load(), tensor)
