"""Take norms whose divisors are frozen out of a checkpoint: their readers hold what they did.

Contract: exact, against the model with the frozen divisors. With y = γ (x − mean x)/σ̂ + β and
P = I − 11ᵀ/d, a reader W y + b becomes W' x + b', W' = W diag(γ/σ̂) P, b' = b + W β (an RMSNorm has
no P). Each output channel of a fused reader has the σ̂ of its path. The norm's parameters go.
Source: "Transformers Don't Need LayerNorm at Inference Time", arXiv 2507.02559.
The result needs a class without these norms: the stock class would normalize again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from normsurgery.anatomy.model import Reader
from normsurgery.anatomy.names import NameMap, Part
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.algebra import contracted, divided, in_slabs
from normsurgery.surgery.centre import checked_float
from normsurgery.surgery.crmsnorm import bias_of
from normsurgery.surgery.fold_norm import Vector, gain_of, shift_of
from normsurgery.surgery.frozen_sites import FrozenReader, FrozenSite
from normsurgery.surgery.receipt import Receipt, receipt_of

SURGERY = "norm-free"


def fold_frozen(
    source: Checkpoint, names: NameMap, sites: Sequence[FrozenSite], *, centre: bool = True
) -> tuple[Checkpoint, Receipt]:
    """Fold the sites; a norm that stays keeps γ/σ̂ and β under its own names.

    names: of `source`. centre: whether a LayerNorm's P is folded too; without it the result is
    wrong unless every stream has zero mean (the proof's negative control).
    Raises UnsupportedModelError for a reader that is a piece of a tensor on disk, or whose outputs
    are not all removed, or in a dtype that cannot be computed with.
    """
    edits: dict[str, LazyTensor] = {}
    added: list[tuple[str, LazyTensor, str]] = []
    gone: list[str] = []
    for site in sites:
        if site.stays:
            changed, new = _affine(source, names, site)
            edits |= changed
            added += new
            continue
        for frozen in site.readers:
            edits |= reader_weights(source, names, site, frozen, centre=centre and site.centres)
            changed, new = _bias(source, names, site, frozen.reader)
            edits |= changed
            added += new
        for parameter in (site.site.norm.weight_name, site.site.norm.bias_name):
            gone += [name for name, _ in names.on_disk(parameter)] if parameter else []
    result = source.override(edits).drop(gone)
    for name, tensor, beside in added:
        result = result.add({name: tensor}, beside=beside)
    return result, receipt_of(
        SURGERY, source, result, changed=edits, parameters=_parameters(sites),
        norms=norm_counts(sites), notes=_notes(sites),
    )  # fmt: skip


def norm_counts(sites: Sequence[FrozenSite]) -> dict[str, dict[str, int]]:
    """Norms that divide, by kind, before; affine maps that stay, after."""
    before: dict[str, int] = {}
    for site in sites:
        before[site.site.norm.kind] = before.get(site.site.norm.kind, 0) + 1
    stay = sum(bool(site.stays) for site in sites)
    return {"before": before, "after": {"affine": stay} if stay else {}}


def _parameters(sites: Sequence[FrozenSite]) -> dict[str, int]:
    stay = sum(bool(site.stays) for site in sites)
    biases = sum(len(site.biases) for site in sites)
    return {"folded": len(sites) - stay, "affine": stay, "biases_added": biases}


def _notes(sites: Sequence[FrozenSite]) -> list[str]:
    kept: dict[str, list[str]] = {}
    for site in sites:
        if site.stays:
            kept.setdefault(site.stays, []).append(site.site.name)
    return [f"{', '.join(held)}: stays as an affine map, {reason}" for reason, held in kept.items()]


def reader_weights(
    source: Checkpoint,
    names: NameMap,
    site: FrozenSite,
    frozen: FrozenReader,
    *,
    centre: bool,
    factor: float = 1.0,
) -> dict[str, LazyTensor]:
    """A reader's tensors on disk with γ/σ̂ (and P) folded in. factor: on σ̂, for all channels."""
    gamma = gain_of(source, names, site.site.norm)
    reader = frozen.reader
    edits: dict[str, LazyTensor] = {}
    for name, part in names.on_disk(reader.weight):
        weight = checked_float(source, name)
        in_dim, out_dim = part.axis(reader.in_dim), part.axis(_out_dim(source, name, part, reader))
        if part.cuts_along(reader.in_dim):
            raise UnsupportedModelError(
                f"{name} holds only some of the channels that {reader.weight} reads",
                "normsurgery inspect MODEL   # what does apply",
            )
        divisor = _divisor(frozen, part, reader, weight.shape[out_dim]) * factor
        fold = partial(
            _folded, gamma=gamma, divisor=divisor, in_dim=in_dim, out_dim=out_dim, centre=centre
        )
        edits[name] = weight.map(fold, by_rows=in_dim > 0 and divisor.dim() == 0)
    return edits


def _out_dim(source: Checkpoint, name: str, part: Part, reader: Reader) -> int:
    """The axis of the parameter along which the reader's outputs lie: one of its last two."""
    dims = len(source[name].shape) + (part.index is not None)
    return dims - 1 if reader.in_dim == dims - 2 else dims - 2


def _divisor(frozen: FrozenReader, part: Part, reader: Reader, outputs: int) -> Tensor:
    """σ̂ for the outputs that stand in one tensor on disk."""
    if part.chunk is None:
        return frozen.divisor(outputs)
    divisor = frozen.divisor(outputs * part.chunk[1])
    return divisor.chunk(part.chunk[1])[part.chunk[0]] if divisor.dim() else divisor


def _folded(
    weight: Tensor, *, gamma: Vector | None, divisor: Tensor, in_dim: int, out_dim: int,
    centre: bool,
) -> Tensor:  # fmt: skip
    gain = gamma() if gamma is not None else None
    return divided(
        weight, divisor, in_dim=in_dim, out_dim=out_dim, gain=gain, centre=centre
    )  # fmt: skip


def _bias(
    source: Checkpoint, names: NameMap, site: FrozenSite, reader: Reader
) -> tuple[dict[str, LazyTensor], list[tuple[str, LazyTensor, str]]]:
    """b + W β: as an edit where the reader has b, else as a new tensor beside its weight."""
    beta = shift_of(source, names, site.site.norm)
    if beta is None:
        return {}, []
    if reader.bias:
        return shifted_bias(source, names, reader, beta), []
    weight_name, part = names.on_disk(reader.weight)[0]
    weight, dim = checked_float(source, weight_name), part.axis(reader.in_dim)
    shape = tuple(size for axis, size in enumerate(weight.shape) if axis != dim)
    tensor = LazyTensor.compute(
        lambda: contracted(weight.load(), beta(), dim=dim).to(weight.load().dtype),
        weight.dtype, shape,
    )  # fmt: skip
    return {}, [(bias_of(reader), tensor, weight_name)]


def shifted_bias(
    source: Checkpoint, names: NameMap, reader: Reader, beta: Vector
) -> dict[str, LazyTensor]:
    """The reader's bias on disk with W β added."""
    assert reader.bias is not None
    weights = {part: name for name, part in names.on_disk(reader.weight)}
    edits: dict[str, LazyTensor] = {}
    for name, part in names.on_disk(reader.bias):
        held = next((one for one in weights if _beside(one, part)), None)
        if held is None:
            raise UnsupportedModelError(
                f"{name} and {reader.weight} are laid out differently on disk",
                "normsurgery inspect MODEL   # what does apply",
            )
        weight, dim = checked_float(source, weights[held]), held.axis(reader.in_dim)
        edits[name] = checked_float(source, name).map(
            partial(_plus, weight=weight, beta=beta, dim=dim)
        )
    return edits


def _beside(weight: Part, bias: Part) -> bool:
    return (weight.index, weight.chunk) == (bias.index, bias.chunk)


def _plus(bias: Tensor, *, weight: LazyTensor, beta: Vector, dim: int) -> Tensor:
    return (bias.double() + contracted(weight.load(), beta(), dim=dim)).to(bias.dtype)


def _affine(
    source: Checkpoint, names: NameMap, site: FrozenSite
) -> tuple[dict[str, LazyTensor], list[tuple[str, LazyTensor, str]]]:
    """γ/σ̂ in the place of γ, without the 1 that some classes add; 1/σ̂ where there is no γ."""
    assert site.sigma is not None
    norm, sigma = site.site.norm, site.sigma
    if norm.weight_name:
        scale = partial(_scaled_gain, offset=norm.offset, sigma=sigma)
        return {
            name: checked_float(source, name).map(scale)
            for name, _ in names.on_disk(norm.weight_name)
        }, []
    beside = next(iter(source))
    if site.site.readers:
        beside = names.on_disk(site.site.readers[0].weight)[0][0]
    like = source[beside].load()[:0]
    return {}, [(f"{norm.name}.weight", LazyTensor.of(like.new_full((1,), 1 / sigma)), beside)]


def _scaled_gain(stored: Tensor, *, offset: float, sigma: float) -> Tensor:
    return in_slabs(stored, lambda slab, _: (slab + offset) / sigma)
