"""Streaming a checkpoint into a directory: header first, bounded buffers, one pass.

Bytes that no edit touched are copied inside the kernel, or, where they are to be hashed or looked
at, through one small buffer. Same checkpoint and options, same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from normsurgery.checkpoint.checkpoint import Checkpoint
from normsurgery.checkpoint.files import FileRange, opened, stamp_of
from normsurgery.checkpoint.health import nonfinite_in
from normsurgery.checkpoint.shards import (
    Named,
    OutputShard,
    config_bytes,
    index_bytes,
    index_name,
    plan_shards,
)  # fmt: skip
from normsurgery.checkpoint.sink import BUFFER_BYTES, Sink
from normsurgery.checkpoint.tensor import LazyTensor
from normsurgery.checkpoint.text import shown
from normsurgery.errors import CheckpointError, UsageError

Progress = Callable[[int], None]
Kind = Literal["weights", "index", "config", "side"]


@dataclass(frozen=True)
class FileRecord:
    """A file that was written: relative name, size, sha256 in hex unless hashing was off."""

    name: str
    bytes: int
    sha256: str | None
    kind: Kind = "weights"


def planned_bytes(checkpoint: Checkpoint, max_shard_bytes: int | None = None) -> int:
    """Bytes that `write_weights` will write. Reads nothing."""
    shards = plan_shards(checkpoint, max_shard_bytes)
    total = sum(shard.nbytes for shard in shards)
    total += sum(len(data) for _, _, data in _documents(checkpoint, shards))
    return total + sum((checkpoint.directory / n).stat().st_size for n in _copied(checkpoint))


def write_weights(
    checkpoint: Checkpoint,
    directory: Path,
    *,
    max_shard_bytes: int | None = None,
    hashes: bool = True,
    refuse_nonfinite: bool = False,
    progress: Progress | None = None,
) -> list[FileRecord]:
    """Write weights, index, config.json and side files; records in that order.

    max_shard_bytes: of tensors in a file; None keeps the source's boundaries.
    progress: called with the bytes written since the last call.
    Raises ResourceError for a full disk, CheckpointError for a source that changed meanwhile or,
    with refuse_nonfinite, for a tensor with NaN or infinities.
    """
    shards = plan_shards(checkpoint, max_shard_bytes)
    _check_names(checkpoint, shards)
    records = []
    for shard in shards:
        with Sink(
            directory / shard.name, shard.name, size=shard.nbytes, hashed=hashes, progress=progress
        ) as out:
            out.write(shard.header)
            _write_tensors(out, shard, refuse_nonfinite=refuse_nonfinite)
        records.append(_record(out, "weights", shard.nbytes))
    documents = _documents(checkpoint, shards)
    small = _write_small(checkpoint, documents, directory, hashed=hashes, progress=progress)
    return [*records, *small]


def write_beside(checkpoint: Checkpoint, directory: Path) -> list[FileRecord]:
    """Write config.json and the side files, and no weights: enough to build the model's class."""
    return _write_small(checkpoint, _made(checkpoint), directory, hashed=False)


def _write_small(
    checkpoint: Checkpoint,
    documents: Iterable[tuple[str, Kind, bytes]],
    directory: Path,
    *,
    hashed: bool,
    progress: Progress | None = None,
) -> list[FileRecord]:
    """The files that are not weights: those made here, then those copied as they are."""

    def sink(name: str, size: int) -> Sink:
        return Sink(directory / name, name, size=size, hashed=hashed, progress=progress)

    records = []
    for name, kind, data in documents:
        with sink(name, len(data)) as out:
            out.write(data)
        records.append(_record(out, kind, len(data)))
    for name in _copied(checkpoint):
        run = _whole(checkpoint.directory / name)
        with sink(name, run.length) as out:
            out.copy(run)
        records.append(_record(out, "side", run.length))
    return records


def hash_files(paths: Iterable[Path], progress: Progress | None = None) -> list[FileRecord]:
    """Size and sha256 of files, through one small buffer."""
    records = []
    buffer = memoryview(bytearray(BUFFER_BYTES))
    for path in paths:
        digest, total = hashlib.sha256(), 0
        with opened(path) as descriptor:
            while count := os.readv(descriptor, [buffer]):
                digest.update(buffer[:count])
                total += count
                if progress is not None:
                    progress(count)
        records.append(FileRecord(path.name, total, digest.hexdigest()))
    return records


def _write_tensors(out: Sink, shard: OutputShard, *, refuse_nonfinite: bool) -> None:
    for piece in _runs(shard.tensors, merge=not refuse_nonfinite):
        if isinstance(piece, FileRange):
            out.copy(piece)
        else:
            name, tensor = piece
            before = out.bytes
            _write_tensor(out, name, tensor, refuse_nonfinite=refuse_nonfinite)
            out.expect(before + tensor.nbytes, name)


def _runs(tensors: Iterable[Named], *, merge: bool) -> Iterator[FileRange | Named]:
    """Untouched neighbours in one file as one run, everything else tensor by tensor."""
    pending: FileRange | None = None
    for name, tensor in tensors:
        run = tensor.range if merge else None
        if pending is not None and run is not None and _adjoin(pending, run):
            pending = replace(pending, length=pending.length + run.length)
            continue
        if pending is not None:
            yield pending
        pending = run
        if run is None:
            yield name, tensor
    if pending is not None:
        yield pending


def _adjoin(left: FileRange, right: FileRange) -> bool:
    same = left.path == right.path and left.stamp == right.stamp
    return same and left.offset + left.length == right.offset


def _write_tensor(out: Sink, name: str, tensor: LazyTensor, *, refuse_nonfinite: bool) -> None:
    nan = inf = 0
    for piece in tensor.pieces(out.buffer):
        if refuse_nonfinite:
            more = nonfinite_in(piece, tensor.dtype)
            nan, inf = nan + more[0], inf + more[1]
        out.write(piece)
    if nan or inf:
        raise CheckpointError(
            f"{shown(name)} holds {nan:,} NaN and {inf:,} infinite values",
            "such a model computes nothing useful; --allow-nonfinite converts it all the same",
        )


def _documents(
    checkpoint: Checkpoint, shards: list[OutputShard]
) -> Iterator[tuple[str, Kind, bytes]]:
    index = index_bytes(checkpoint, shards)
    if index is not None:
        yield index_name(), "index", index
    yield from _made(checkpoint)


def _made(checkpoint: Checkpoint) -> Iterator[tuple[str, Kind, bytes]]:
    """What is made anew and says nothing of weight files."""
    yield "config.json", "config", config_bytes(checkpoint)
    for name, data in checkpoint.extra_files.items():
        yield name, "side", data


def _copied(checkpoint: Checkpoint) -> list[str]:
    return [name for name in checkpoint.side_files if name not in checkpoint.extra_files]


def _check_names(checkpoint: Checkpoint, shards: list[OutputShard]) -> None:
    own = {shard.name for shard in shards} | {"config.json", index_name()}
    for name in [*checkpoint.side_files, *checkpoint.extra_files]:
        if name in own:
            raise UsageError(
                f"{shown(name)} is a side file and a file of the output", "rename the side file"
            )


def _whole(path: Path) -> FileRange:
    with opened(path) as descriptor:
        found = os.fstat(descriptor)
        return FileRange(path, 0, found.st_size, stamp_of(found))


def _record(out: Sink, kind: Kind, expected: int) -> FileRecord:
    out.expect(expected, out.name)
    return FileRecord(out.name, out.bytes, out.sha256, kind)
