"""Fold a norm's γ and β into the linears that read it.

Contract: exact. b ← b + W β, W ← W diag(γ); leaves γ = 1, β = 0 (a class that
stores γ − 1 keeps 0).
Folds a site only when every reader of the norm's output is a linear that takes both; the others
keep their γ and β, and the receipt says why. Experts and a router are linears as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.model import Anatomy, NormSite, Reader
from normsurgery.anatomy.names import NameMap, Part
from normsurgery.anatomy.norms import Norm
from normsurgery.anatomy.push import trace_of
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.surgery.algebra import contracted, scaled
from normsurgery.surgery.centre import checked_float
from normsurgery.surgery.folds import FoldOptions, FoldPlan
from normsurgery.surgery.receipt import Receipt, receipt_of

Vector = Callable[[], Tensor]  # a small tensor that is read from disk only when it is needed


def fold_affine(source: Checkpoint, anatomy: Anatomy, names: NameMap) -> tuple[Checkpoint, Receipt]:
    """Fold γ and β of every norm that reads a convertible stream, where its readers hold them."""
    sites, kept = _sorted_out(stream_sites(anatomy), names)
    return _fold_sites(source, names, sites, kept, surgery="fold-affine")


def plan_norm(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """Fold γ and β of every LayerNorm and RMSNorm whose readers are linears, whatever it reads."""
    anatomy, names = examination.anatomy, examination.names
    runs = [node.module for node in trace_of(examination.twin).norm_nodes()]
    rows = [site for site in anatomy.sites.values() if site.norm.kind != "BatchNorm"]
    if not rows:
        return "it has no LayerNorm and no RMSNorm"
    sites, kept = _sorted_out(rows, names, often={name for name in runs if runs.count(name) > 1})
    if not sites:
        name, reason = next(iter(kept.items()))
        return f"{name}: {reason}"
    step = partial(_fold_sites, names=names, sites=sites, kept=kept, surgery="norm")
    return FoldPlan(
        "norm", step, len(sites), left=kept,
        wrong={"γ stays in the norm too": partial(step, reset=False)},
    )  # fmt: skip


def _sorted_out(
    sites: Iterable[NormSite], names: NameMap, *, often: Iterable[str] = ()
) -> tuple[list[NormSite], dict[str, str]]:
    """The sites that fold; and why the others do not, by name. often: those that run repeatedly."""
    folding: list[NormSite] = []
    kept: dict[str, str] = {}
    for site in sites:
        reason = why_not_foldable(site, names)
        if reason is None and site.name in often:
            reason = "it runs more than once, and one run's readers may not be another's"
        if reason:
            kept[site.name] = reason
        else:
            folding.append(site)
    return folding, kept


def _fold_sites(
    source: Checkpoint,
    names: NameMap,
    sites: Sequence[NormSite],
    kept: dict[str, str],
    *,
    surgery: str,
    reset: bool = True,
) -> tuple[Checkpoint, Receipt]:
    """Fold these sites. reset: whether the norms lose what their readers have gained."""
    edits: dict[str, LazyTensor] = {}
    for site in sites:
        edits |= folded_site(source, names, site, reset=reset)
    result = source.override(edits)
    reasons: dict[str, list[str]] = {}
    for name, reason in kept.items():
        reasons.setdefault(reason, []).append(name)
    notes = [f"{', '.join(found)}: γ and β stay, {reason}" for reason, found in reasons.items()]
    return result, receipt_of(
        surgery, source, result, changed=edits,
        parameters={"folded": len(sites), "kept": len(kept)},
        notes=notes if surgery == "fold-affine" else (),
    )  # fmt: skip


def stream_sites(anatomy: Anatomy) -> Iterable[NormSite]:
    """The norm sites that read a convertible stream, in order of execution."""
    reading = {name for stream in anatomy.convertible() for name in stream.sites}
    return [site for site in anatomy.sites.values() if site.name in reading]


def why_not_foldable(site: NormSite, names: NameMap) -> str | None:
    """Why γ and β cannot leave this norm, or None."""
    if not site.norm.weight and not site.norm.bias:
        return "it has none"
    if site.unfoldable:
        return site.unfoldable
    if site.norm.bias:
        without = [reader.module for reader in site.readers if reader.bias is None]
        if without:
            return f"{without[0]} has no bias to take β"
    for reader in site.readers:
        joint = names.joint(reader.weight)
        if joint:
            return f"{reader.weight} is only a piece of {joint} on disk"
    return None


def folded_site(
    source: Checkpoint, names: NameMap, site: NormSite, *, reset: bool = True
) -> dict[str, LazyTensor]:
    """The edits that move one site's γ and β into its readers."""
    gamma = gain_of(source, names, site.norm)
    beta = shift_of(source, names, site.norm)
    edits: dict[str, LazyTensor] = {}
    for reader in site.readers:
        edits |= _folded_reader(source, names, reader, gamma, beta)
    if not reset:
        return edits
    if site.norm.weight_name:
        for name, _ in names.on_disk(site.norm.weight_name):
            identity = 1.0 - site.norm.offset
            edits[name] = source[name].map(partial(torch.full_like, fill_value=identity))
    if site.norm.bias_name:
        for name, _ in names.on_disk(site.norm.bias_name):
            edits[name] = source[name].map(torch.zeros_like)
    return edits


def gain_of(source: Checkpoint, names: NameMap, norm: Norm) -> Vector | None:
    """γ in float64 [width], read when called; None where the norm has none."""
    if not norm.weight_name:
        return None
    stored = source[names.on_disk(norm.weight_name)[0][0]]
    return lambda: stored.load().double() + norm.offset


def shift_of(source: Checkpoint, names: NameMap, norm: Norm) -> Vector | None:
    """β in float64 [width], read when called; None where the norm has none."""
    if not norm.bias_name:
        return None
    stored = source[names.on_disk(norm.bias_name)[0][0]]
    return lambda: stored.load().double()


def _folded_reader(
    source: Checkpoint,
    names: NameMap,
    reader: Reader,
    gamma: Vector | None,
    beta: Vector | None,
) -> dict[str, LazyTensor]:
    edits: dict[str, LazyTensor] = {}
    held_weights = names.on_disk(reader.weight)
    for name, part in names.on_disk(reader.bias) if reader.bias else []:
        if beta is None:
            break
        weight_name, held = _beside(held_weights, part)
        add = partial(
            _plus_contracted, weight=checked_float(source, weight_name), beta=beta,
            dim=held.axis(reader.in_dim),
        )  # fmt: skip
        edits[name] = checked_float(source, name).map(add)
    if gamma is not None:
        for name, held in names.on_disk(reader.weight):
            fold = partial(_scaled, gamma=gamma, dim=held.axis(reader.in_dim))
            edits[name] = checked_float(source, name).map(
                fold, by_rows=held.axis(reader.in_dim) > 0
            )
    return edits


def _beside(held: Sequence[tuple[str, Part]], part: Part) -> tuple[str, Part]:
    """The tensor on disk with the same piece of the weight as `part` is of the bias."""
    same = (one for one in held if (one[1].index, one[1].chunk) == (part.index, part.chunk))
    return next(same, held[0])


def _scaled(weight: Tensor, *, gamma: Vector, dim: int) -> Tensor:
    return scaled(weight, gamma(), dim=dim)


def _plus_contracted(bias: Tensor, *, weight: LazyTensor, beta: Vector, dim: int) -> Tensor:
    return (bias.double() + contracted(weight.load(), beta(), dim=dim)).to(bias.dtype)
