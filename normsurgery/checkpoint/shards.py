"""Which tensors go into which output file, under which name, with which header and index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normsurgery.checkpoint.checkpoint import Checkpoint
from normsurgery.checkpoint.dtypes import BITS
from normsurgery.checkpoint.layout import INDEX, SINGLE
from normsurgery.checkpoint.safetensors_file import encode_header
from normsurgery.checkpoint.shard import Shard
from normsurgery.checkpoint.tensor import LazyTensor

Named = tuple[str, LazyTensor]


@dataclass(frozen=True)
class OutputShard:
    """One weight file to write: its header with the length prefix, and its tensors in order."""

    name: str
    header: bytes
    tensors: tuple[Named, ...]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(tensor.nbytes for _, tensor in self.tensors)


def plan_shards(checkpoint: Checkpoint, max_shard_bytes: int | None) -> list[OutputShard]:
    """The output files: the source's boundaries, or as few as hold max_shard_bytes of tensors each.

    The source's names are kept while their number is; else they are numbered anew.
    """
    kept = _by_source(checkpoint)
    groups = kept if max_shard_bytes is None else _repacked(kept, max_shard_bytes)
    if max_shard_bytes is None and len(groups) == len(checkpoint.sources):
        names = [_safetensors_name(source.name) for source, _ in groups]
    elif len(groups) == 1:
        names = [SINGLE]
    else:
        total = len(groups)
        names = [f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    return [
        _shard(name, source, group) for name, (source, group) in zip(names, groups, strict=True)
    ]


def index_bytes(checkpoint: Checkpoint, shards: list[OutputShard]) -> bytes | None:
    """The index, None for a lone model.safetensors; the source's own bytes if it still holds."""
    if [shard.name for shard in shards] == [SINGLE]:
        return None
    weight_map = {name: shard.name for shard in shards for name, _ in shard.tensors}
    source: dict[str, Any] = json.loads(checkpoint.source_index or b"{}")
    size_before = sum(t.nbytes for shard in checkpoint.sources for t in shard.tensors.values())
    if source.get("weight_map") == weight_map and size_before == checkpoint.nbytes:
        return checkpoint.source_index
    metadata = source.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    if "total_parameters" in metadata:
        metadata["total_parameters"] = sum(tensor.numel for tensor in checkpoint.values())
    metadata["total_size"] = checkpoint.nbytes
    document = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(document, indent=2) + "\n").encode()


def config_bytes(checkpoint: Checkpoint) -> bytes:
    """config.json: the source's bytes if nothing changed, key order included."""
    if json.dumps(json.loads(checkpoint.source_config)) == json.dumps(checkpoint.config):
        return checkpoint.source_config
    return (json.dumps(checkpoint.config, indent=2) + "\n").encode()


def index_name() -> str:
    """What the index is called."""
    return INDEX


def _by_source(checkpoint: Checkpoint) -> list[tuple[Shard, list[Named]]]:
    held: dict[str, list[Named]] = {shard.name: [] for shard in checkpoint.sources}
    for name, tensor in checkpoint.items():
        held[checkpoint.shards[name]].append((name, tensor))
    return [(shard, held[shard.name]) for shard in checkpoint.sources if held[shard.name]]


def _repacked(
    groups: list[tuple[Shard, list[Named]]], max_shard_bytes: int
) -> list[tuple[Shard, list[Named]]]:
    packed: list[tuple[Shard, list[Named]]] = []
    room = 0
    for source, name, tensor in _flat(groups):
        if not packed or tensor.nbytes > room:
            packed.append((source, []))
            room = max_shard_bytes
        packed[-1][1].append((name, tensor))
        room -= tensor.nbytes
    return packed


def _flat(groups: list[tuple[Shard, list[Named]]]) -> Iterator[tuple[Shard, str, LazyTensor]]:
    for source, group in groups:
        for name, tensor in group:
            yield source, name, tensor


def _safetensors_name(name: str) -> str:
    if not name.endswith(".bin"):
        return name
    return name.removesuffix(".bin").replace("pytorch_model", "model") + ".safetensors"


def _shard(name: str, source: Shard, group: list[Named]) -> OutputShard:
    if source.header is not None:
        before = [(n, e.dtype, e.shape) for n, e in source.header.tensors.items()]
        if before == [(n, t.dtype, t.shape) for n, t in group]:
            # the same header byte for byte, so an untouched file keeps its hash
            raw = source.header.raw
            return OutputShard(name, len(raw).to_bytes(8, "little") + raw, tuple(group))
    # wide elements first keeps each aligned in a memory map; sorting is stable, so else in order
    ordered = sorted(group, key=lambda item: -BITS[item[1].dtype])
    entries = ((n, t.dtype, t.shape, t.nbytes) for n, t in ordered)
    return OutputShard(name, encode_header(source.metadata, entries), tuple(ordered))
