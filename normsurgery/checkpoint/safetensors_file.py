"""Header and byte ranges of one safetensors file, checked as hostile input.

Format: 8 bytes little-endian header length n; n bytes of JSON, name → dtype, shape, data_offsets
(from the end of the header), and `__metadata__`, string → string; then the data without holes.
Source: the format's README and tensor.rs (huggingface/safetensors).
Knows nothing of shards, models or torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normsurgery.checkpoint.dtypes import BITS, count_elements
from normsurgery.checkpoint.files import FileRange, opened, stamp_of
from normsurgery.checkpoint.text import parse_object, shown
from normsurgery.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the same limit as the safetensors library
_HINT = "the file is damaged or not safetensors: download it again"


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a header; the range is in bytes of the whole file."""

    dtype: str
    shape: tuple[int, ...]
    range: FileRange


@dataclass(frozen=True)
class SafetensorsFile:
    """A checked header: the tensors cover the data section without a hole or an overlap.

    raw: the header as it stands in the file. tensors: by ascending offset.
    """

    path: Path
    raw: bytes
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorEntry]


def read_header(path: Path) -> SafetensorsFile:
    """Read and check one file's header. Raises CheckpointError naming the file and the tensor."""
    name = shown(path.name)
    with opened(path) as descriptor:
        found = os.fstat(descriptor)
        raw = _header_bytes(descriptor, found.st_size, name)
    document = parse_object(raw, f"the header of {name}", _HINT, unique=True)
    metadata = _metadata(document.pop("__metadata__", None), name)
    data_start = 8 + len(raw)
    tensors = {
        key: _entry(path, data_start, stamp_of(found), key, value)
        for key, value in document.items()
    }
    ordered = sorted(tensors.items(), key=lambda item: (item[1].range.offset, item[1].range.length))
    _check_cover(ordered, data_start, found.st_size, name)
    return SafetensorsFile(path, raw, metadata, dict(ordered))


def _header_bytes(descriptor: int, size: int, name: str) -> bytes:
    if size < 8:
        raise CheckpointError(f"{name} has {size} bytes, too few for a safetensors header", _HINT)
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{name} claims a header of {length:,} bytes, more than the format allows", _HINT
        )
    if length > size - 8:
        raise CheckpointError(
            f"{name} claims a header of {length:,} bytes, but the file has only {size:,}", _HINT
        )
    raw = os.pread(descriptor, length, 8)
    if len(raw) != length:
        raise CheckpointError(f"{name} was cut short while it was being read", _HINT)
    if not raw.startswith(b"{"):
        raise CheckpointError(f"the header of {name} does not begin with {{", _HINT)
    return raw


def _metadata(value: Any, name: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise CheckpointError(f"__metadata__ of {name} is not a map of strings", _HINT)
    for key, text in value.items():
        _encodable(key, name)
        _encodable(text, name)
    return value


def _encodable(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CheckpointError(
            f"the header of {name} has a lone surrogate in {shown(ascii(text))}", _HINT
        ) from None


def _entry(
    path: Path, data_start: int, stamp: tuple[int, int, int], key: str, value: Any
) -> TensorEntry:
    where = f"{shown(path.name)}: tensor {shown(key)}"
    _encodable(key, shown(path.name))
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is not described by an object", _HINT)
    dtype: Any = value.get("dtype")
    shape: Any = value.get("shape")
    offsets: Any = value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(f"{where} has an unknown dtype {shown(dtype)}", _HINT)
    if not _natural_numbers(shape):
        raise CheckpointError(f"{where} has an impossible shape {shown(shape)}", _HINT)
    if not _natural_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where} has impossible offsets {shown(offsets)}", _HINT)
    begin, end = offsets
    if end + data_start > stamp[1]:
        raise CheckpointError(
            f"{where} ends at byte {shown(end + data_start)}, past the end of the file "
            f"({stamp[1]:,} bytes)", _HINT,
        )  # fmt: skip
    elements = count_elements(tuple(shape))
    if elements is None or elements * BITS[dtype] != (end - begin) * 8:
        raise CheckpointError(
            f"{where}: {dtype} of shape {shown(shape)} does not fit its {end - begin:,} bytes",
            _HINT,
        )
    run = FileRange(path, data_start + begin, end - begin, stamp)
    return TensorEntry(dtype, tuple(shape), run)


def _natural_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _check_cover(
    ordered: list[tuple[str, TensorEntry]], data_start: int, size: int, name: str
) -> None:
    position, before = data_start, "the header"
    for key, entry in ordered:
        if entry.range.offset < position:
            raise CheckpointError(
                f"{name}: tensor {shown(key)} overlaps {shown(before)} in the file", _HINT
            )
        if entry.range.offset > position:
            raise CheckpointError(
                f"{name}: {entry.range.offset - position:,} bytes before tensor {shown(key)} "
                "belong to no tensor", _HINT,
            )  # fmt: skip
        position, before = position + entry.range.length, key
    if position != size:
        raise CheckpointError(
            f"{name}: {size - position:,} bytes at the end belong to no tensor", _HINT
        )


def encode_header(
    metadata: Mapping[str, str], tensors: Iterable[tuple[str, str, tuple[int, ...], int]]
) -> bytes:
    """Header with its length prefix for tensors (name, dtype, shape, bytes) laid end to end.

    Padded with spaces to 8 bytes, so that the data section is aligned. Same input, same bytes.
    """
    document: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, dtype, shape, length in tensors:
        offsets = [position, position + length]
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        position += length
    raw = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw
