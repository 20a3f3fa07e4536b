"""Drop one channel of a centred stream: CRMSNorm.

Contract: exact. Source: arXiv 2305.14858: the last channel is minus the sum of the
others, so readers become W[:, :-1] − W[:, -1:] (γ folded first), writers lose their last output,
and the norm is c · rsqrt((Σc² + (Σc)²)/d + ε) with the original d.
Refuses: a reader that is not a linear, a tied table, a stream that needs centring at run time.
The width d − 1 fits no stock class: the result is a graft, for research.
"""

from __future__ import annotations

from torch import Tensor

from normsurgery.anatomy.model import Anatomy, NormSite, Reader, Writer
from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.algebra import contracted, minus_last, scaled, without_last
from normsurgery.surgery.centre import checked_float
from normsurgery.surgery.fold_norm import Vector, gain_of, shift_of, stream_sites
from normsurgery.surgery.receipt import Receipt, receipt_of


def why_not_crmsnorm(anatomy: Anatomy, names: NameMap) -> str | None:
    """Why the streams cannot lose a channel, or None; a tied table is no reason: it is untied."""
    shared = {w.weight: w.module for s in anatomy.convertible() for w in s.writers if w.shared}
    for stream in anatomy.convertible():
        for door in stream.online:
            if door.module not in shared.values():
                return f"{door.reason}: the stream has no form without its mean"
        if stream.exposed:
            return f"output {stream.exposed[0]} shows the stream, which would be one channel short"
    stored = {part.parameter for part in names.parts.values()}
    for site in stream_sites(anatomy):
        if site.unfoldable and not any(reader.weight in shared for reader in site.readers):
            return f"{site.name}: {site.unfoldable}, so γ and the lost channel cannot be folded"
        for reader in site.readers:
            if names.joint(reader.weight):
                return f"{reader.weight} is only a piece of {names.joint(reader.weight)} on disk"
            if site.norm.bias and not reader.bias and bias_of(reader) in stored:
                return f"{bias_of(reader)} is added by hand, so {reader.module} cannot take β"
    return None


def drop_channel(
    source: Checkpoint, anatomy: Anatomy, names: NameMap
) -> tuple[Checkpoint, Receipt]:
    """The result for a checkpoint whose writers are centred already (see `centre_writers`).

    Raises UnsupportedModelError with the reason where the streams cannot lose a channel.
    """
    reason = why_not_crmsnorm(anatomy, names)
    if reason:
        raise UnsupportedModelError(reason, "--to rmsnorm keeps the width and has no such need")
    edits: dict[str, LazyTensor] = {}
    added: dict[str, tuple[LazyTensor, str]] = {}
    gone: list[str] = []
    for site in stream_sites(anatomy):
        changed, new = _folded(source, names, site)
        edits |= changed
        added |= new
        for parameter in (site.norm.weight_name, site.norm.bias_name):
            if parameter:
                gone += [name for name, _ in names.on_disk(parameter)]
    result = source.override(edits)
    written: dict[str, LazyTensor] = {}
    for stream in anatomy.convertible():
        for writer in stream.writers:
            written |= _narrowed(result, names, writer)
    result = result.override(written).drop(gone)
    for name, (tensor, beside) in added.items():
        result = result.add({name: tensor}, beside=beside)
    return result, receipt_of("drop-channel", source, result, changed=[*edits, *written])


def bias_of(reader: Reader) -> str:
    """The parameter that takes a norm's β: the reader's bias, or the one that it will get."""
    return reader.bias or f"{reader.weight.rpartition('.')[0]}.bias"


def _folded(
    source: Checkpoint, names: NameMap, site: NormSite
) -> tuple[dict[str, LazyTensor], dict[str, tuple[LazyTensor, str]]]:
    gamma, beta = gain_of(source, names, site.norm), shift_of(source, names, site.norm)
    edits: dict[str, LazyTensor] = {}
    added: dict[str, tuple[LazyTensor, str]] = {}
    for reader in site.readers:
        weight_name, part = names.on_disk(reader.weight)[0]
        weight, dim = checked_float(source, weight_name), part.axis(reader.in_dim)
        for name, _ in names.on_disk(reader.weight):
            edits[name] = _reader_weight(weight, gamma, dim)
        if beta is not None and reader.bias:
            for name, _ in names.on_disk(reader.bias):
                edits[name] = _reader_bias(source[name], weight, beta, dim)
        elif beta is not None:
            added[bias_of(reader)] = (_reader_bias(None, weight, beta, dim), weight_name)
    return edits, added


def _reader_weight(weight: LazyTensor, gamma: Vector | None, dim: int) -> LazyTensor:
    def fold() -> Tensor:
        wide = weight.load()
        if gamma is not None:
            wide = scaled(wide.double(), gamma(), dim=dim)
        return minus_last(wide, dim=dim).to(weight.load().dtype)

    return LazyTensor.compute(fold, weight.dtype, _one_less(weight.shape, dim))


def _reader_bias(bias: LazyTensor | None, weight: LazyTensor, beta: Vector, dim: int) -> LazyTensor:
    def fold() -> Tensor:
        loaded = weight.load()
        total = contracted(loaded, beta(), dim=dim)
        if bias is not None:
            total = total + bias.load().double()
        return total.to(loaded.dtype)

    shape = tuple(size for axis, size in enumerate(weight.shape) if axis != dim)
    return LazyTensor.compute(fold, bias.dtype if bias else weight.dtype, shape)


def _narrowed(source: Checkpoint, names: NameMap, writer: Writer) -> dict[str, LazyTensor]:
    edits: dict[str, LazyTensor] = {}
    parameters = [(writer.weight, writer.stream_dim)]
    parameters += [(name, 0) for name in (writer.bias, writer.scale) if name]
    for parameter, axis in parameters:
        for name, part in names.on_disk(parameter):
            edits[name] = _without_last(source[name], part.axis(axis))
    return edits


def _without_last(tensor: LazyTensor, dim: int) -> LazyTensor:
    return LazyTensor.compute(
        lambda: without_last(tensor.load(), dim=dim), tensor.dtype, _one_less(tensor.shape, dim)
    )


def _one_less(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(size - (axis == dim) for axis, size in enumerate(shape))
