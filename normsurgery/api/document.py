"""The parts of a result document that several commands share."""

from __future__ import annotations

import resource
import sys
from collections import Counter
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.model import NormSite
from normsurgery.checkpoint import Checkpoint


def source_document(checkpoint: Checkpoint, architecture: str | None) -> dict[str, Any]:
    """What was opened: its id and commit (never a local path), class, size and dtype."""
    dtypes = Counter[str]()
    for tensor in checkpoint.values():
        dtypes[tensor.dtype] += tensor.numel
    return {
        "model": checkpoint.model_id,
        "revision": checkpoint.revision,
        "model_type": checkpoint.config.get("model_type"),
        "architecture": architecture,
        "parameters": sum(tensor.numel for tensor in checkpoint.values()),
        "bytes": sum(tensor.nbytes for tensor in checkpoint.values()),
        "dtype": dtypes.most_common(1)[0][0] if dtypes else None,
    }


def norm_documents(checkpoint: Checkpoint, examination: Examination) -> list[dict[str, Any]]:
    """Every norm with its kind, role and width, in order of execution."""
    anatomy = examination.anatomy
    return [
        {
            "name": site.name,
            "kind": site.norm.kind,
            "role": site.role,
            "width": _real_width(checkpoint, examination, site),
            "eps": site.norm.eps,
            "readers": [reader.weight for reader in site.readers],
        }
        for site in anatomy.sites.values()
    ]


def block_documents(checkpoint: Checkpoint, examination: Examination) -> list[dict[str, Any]]:
    """Lists of repeated layers with their parameters and bytes."""
    return [
        {"name": block.name, "count": block.count, **_weight(checkpoint, examination, block.name)}
        for block in examination.anatomy.blocks
    ]


def part_documents(checkpoint: Checkpoint, examination: Examination) -> list[dict[str, Any]]:
    """Parameters and bytes of each top part of the model: embeddings, block lists, head."""
    blocks = [block.name for block in examination.anatomy.blocks]
    totals: dict[str, Counter[str]] = {}
    for name, tensor in checkpoint.items():
        part = _part_of(_memory_name(examination, name), blocks)
        count = totals.setdefault(part, Counter())
        count["parameters"] += tensor.numel
        count["bytes"] += tensor.nbytes
    return [{"name": part, **count} for part, count in totals.items()]


def _real_width(checkpoint: Checkpoint, examination: Examination, site: NormSite) -> int | None:
    """The norm's width in the real model (the anatomy knows the twin's), None if nothing tells."""
    reads = [(name, -1) for name in (site.norm.weight_name, site.norm.bias_name) if name]
    reads += [(reader.weight, reader.in_dim) for reader in site.readers]
    for stream in examination.anatomy.streams:
        if site.name in stream.sites:
            reads += [(writer.weight, writer.stream_dim) for writer in stream.writers]
    for name, part in examination.names.parts.items():
        axis = next((axis for read, axis in reads if read == part.parameter), None)
        if axis is not None:
            shape = checkpoint[name].shape
            return shape[axis if axis < 0 else part.axis(axis)]
    return None


def _weight(checkpoint: Checkpoint, examination: Examination, prefix: str) -> dict[str, int]:
    held = [
        tensor
        for name, tensor in checkpoint.items()
        if _memory_name(examination, name).startswith(f"{prefix}.")
    ]
    return {
        "parameters": sum(tensor.numel for tensor in held),
        "bytes": sum(tensor.nbytes for tensor in held),
    }


def _memory_name(examination: Examination, name: str) -> str:
    names = examination.names
    if name in names.parts:
        return names.parts[name].parameter
    return names.joins[name][0] if name in names.joins else name


def _part_of(name: str, blocks: list[str]) -> str:
    for block in blocks:
        if name.startswith(f"{block}."):
            return block
    pieces = name.split(".")
    return ".".join(pieces[: max(1, min(2, len(pieces) - 1))])


def peak_memory_bytes() -> int:
    """The process's largest resident size so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
