"""Make every writer to the residual stream zero-mean (the heart of LayerNorm → RMSNorm).

Contract: exact. Source: "Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and
Efficient Pre-LN Transformers", arXiv 2305.14858.
LN(x) depends on the centred x only, so a stream whose writers are centred computes the same in the
stock class, and its LayerNorms are RMSNorms with the same γ, β and ε.
Refuses: weights that are not F64, F32, F16 or BF16.
Knows nothing of files, shards or the command line.
"""

from __future__ import annotations

from functools import partial

import torch

from normsurgery.anatomy.model import Anatomy, Writer
from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.algebra import centred
from normsurgery.surgery.receipt import Receipt, receipt_of

_FLOATS = ("F64", "F32", "F16", "BF16")


def centre_writers(
    source: Checkpoint, anatomy: Anatomy, names: NameMap
) -> tuple[Checkpoint, Receipt]:
    """Centre the weights of every convertible stream that nothing else reads.

    A shared table (a tied head) stays as it is: the stock class does not mind, and the graft
    centres what is looked up in it.
    """
    edits: dict[str, LazyTensor] = {}
    for stream in anatomy.convertible():
        for writer in stream.writers:
            if not writer.shared:
                edits |= _centred_writer(source, names, writer)
    result = source.override(edits)
    return result, receipt_of(
        "centre", source, result, changed=edits,
        norms=norm_counts(anatomy),
    )  # fmt: skip


def norm_counts(anatomy: Anatomy) -> dict[str, dict[str, int]]:
    """Norms that read a stream, by kind, before and after."""
    reading = sum(len(stream.sites) for stream in anatomy.convertible())
    return {"before": {"LayerNorm": reading}, "after": {"RMSNorm": reading}}


def _centred_writer(source: Checkpoint, names: NameMap, writer: Writer) -> dict[str, LazyTensor]:
    edits: dict[str, LazyTensor] = {}
    scale = _whole(source, names, writer.scale) if writer.scale else None
    for name, part in names.on_disk(writer.weight):
        if part.cuts_along(writer.stream_dim):
            raise UnsupportedModelError(
                f"{name} holds only some of the channels that {writer.weight} writes",
                "normsurgery inspect MODEL   # what does apply",
            )
        edits[name] = _centre(source, name, part.axis(writer.stream_dim), scale)
    for name, part in names.on_disk(writer.bias) if writer.bias else []:
        edits[name] = _centre(source, name, part.axis(0), scale)
    for name, _ in names.on_disk(writer.scale) if writer.scale else []:
        edits[name] = source[name].map(torch.ones_like)
    return edits


def _centre(source: Checkpoint, name: str, dim: int, scale: LazyTensor | None) -> LazyTensor:
    tensor = checked_float(source, name)
    by_rows = dim > 0
    if scale is None:
        return tensor.map(partial(centred, dim=dim), by_rows=by_rows)
    gain = scale
    return tensor.map(lambda weight: centred(weight, dim=dim, scale=gain.load()), by_rows=by_rows)


def _whole(source: Checkpoint, names: NameMap, parameter: str) -> LazyTensor:
    return source[names.on_disk(parameter)[0][0]]


def checked_float(source: Checkpoint, name: str) -> LazyTensor:
    """The tensor, if its dtype is one that can be computed with.

    Raises UnsupportedModelError for 8-bit and smaller dtypes: one rounding would lose the proof.
    """
    tensor = source[name]
    if tensor.dtype not in _FLOATS:
        raise UnsupportedModelError(
            f"{name} is {tensor.dtype}: a writer or reader must be one of {', '.join(_FLOATS)}",
            "start from the checkpoint before it was quantized",
        )
    return tensor
