"""Write a checkpoint under the names and in the layout that the model has in memory.

Contract: exact; nothing is computed. transformers renames, stacks and transposes tensors by rules
of the model type. A checkpoint that gets a model type of its own is loaded without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from normsurgery.anatomy.names import NameMap, Part
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.receipt import Receipt

Pieces = Mapping[tuple[int, int], tuple[LazyTensor, bool]]  # (index, chunk) → tensor, transposed


def in_memory_names(names: NameMap) -> NameMap:
    """The names of the result of `in_memory_form`: every parameter under its own."""
    held = dict.fromkeys(part.parameter for part in names.parts.values())
    return NameMap({name: Part(name) for name in held}, {}, names.carried, names.tied)


def in_memory_form(source: Checkpoint, names: NameMap) -> tuple[Checkpoint, Receipt]:
    """Rename, stack and turn what is stored otherwise than it stands in memory.

    Raises UnsupportedModelError where a tensor joins several parameters.
    """
    if names.joins:
        joint, held = next(iter(names.joins.items()))
        raise UnsupportedModelError(
            f"{joint} joins {', '.join(held[:3])} on disk, and a checkpoint with a model type of "
            "its own is loaded without the rule that parts them",
            "--export stock has no such need",
        )
    whole: dict[str, tuple[LazyTensor, str]] = {}
    split: dict[str, dict[str, Part]] = {}
    for name, tensor in source.items():
        part = names.parts.get(name)
        if part is None:
            whole[name] = tensor, name
        elif part == Part(part.parameter):
            whole[part.parameter] = tensor, name
        else:
            split.setdefault(part.parameter, {})[name] = part
    for parameter, parts in split.items():
        whole[parameter] = _assembled(source, parts), next(iter(parts))
    renamed = sum(name not in source for name in whole)
    result = source.replaced(whole)
    return result, Receipt(
        "in-memory-form", "exact", {"renamed": renamed, "stacked": len(split)},
        added=tuple(name for name in result if name not in source),
        dropped=tuple(name for name in source if name not in result),
        kept=sum(name in source for name in result),
    )  # fmt: skip


def _assembled(source: Checkpoint, parts: Mapping[str, Part]) -> LazyTensor:
    """The parameter that these tensors on disk are parts of."""
    pieces = {
        (part.index or 0, part.chunk[0] if part.chunk else 0): (source[name], part.transposed)
        for name, part in parts.items()
    }
    stacked = next(iter(parts.values())).index is not None
    first, turned = pieces[0, 0]
    rows, *rest = reversed(first.shape) if turned else first.shape
    chunks = 1 + max(chunk for _, chunk in pieces)
    shape = (rows * chunks, *rest)
    count = 1 + max(index for index, _ in pieces)
    if len(pieces) != count * chunks:
        raise UnsupportedModelError(
            f"{next(iter(parts.values())).parameter} is not whole on disk",
            "compare the checkpoint with the one that the model ships with",
        )
    make = partial(_stack, pieces, count, chunks, stacked=stacked)
    return LazyTensor.compute(make, first.dtype, (count, *shape) if stacked else shape)


def _stack(pieces: Pieces, count: int, chunks: int, *, stacked: bool) -> Tensor:
    def loaded(index: int, chunk: int) -> Tensor:
        tensor, turned = pieces[index, chunk]
        return tensor.load().transpose(0, 1) if turned else tensor.load()

    entries = [
        torch.cat([loaded(index, chunk) for chunk in range(chunks)]) for index in range(count)
    ]
    return torch.stack(entries) if stacked else entries[0].contiguous()
