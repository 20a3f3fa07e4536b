"""Fold a norm's γ and β into the linears that read it.

Contract: exact. b ← b + W β, W ← W diag(γ); leaves γ = 1, β = 0 (a class that
stores γ − 1 keeps 0).
Folds a site only when every reader of the norm's output is a linear that takes both; the others
keep their γ and β, and the receipt says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from normsurgery.anatomy.model import Anatomy, NormSite, Reader
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.norms import Norm
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.surgery.algebra import contracted, scaled
from normsurgery.surgery.centre import checked_float
from normsurgery.surgery.receipt import Receipt, receipt_of

Vector = Callable[[], Tensor]  # a small tensor that is read from disk only when it is needed


def fold_affine(source: Checkpoint, anatomy: Anatomy, names: NameMap) -> tuple[Checkpoint, Receipt]:
    """Fold γ and β of every norm that reads a convertible stream, where its readers hold them."""
    edits: dict[str, LazyTensor] = {}
    folded: list[str] = []
    kept: dict[str, list[str]] = {}
    for site in stream_sites(anatomy):
        reason = why_not_foldable(site, names)
        if reason:
            kept.setdefault(reason, []).append(site.name)
            continue
        edits |= folded_site(source, names, site)
        folded.append(site.name)
    result = source.override(edits)
    notes = [f"{', '.join(sites)}: γ and β stay, {reason}" for reason, sites in kept.items()]
    parameters = {"folded": len(folded), "kept": sum(len(sites) for sites in kept.values())}
    return result, receipt_of(
        "fold-affine", source, result, changed=edits, parameters=parameters, notes=notes
    )


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


def folded_site(source: Checkpoint, names: NameMap, site: NormSite) -> dict[str, LazyTensor]:
    """The edits that move one site's γ and β into its readers."""
    gamma = gain_of(source, names, site.norm)
    beta = shift_of(source, names, site.norm)
    edits: dict[str, LazyTensor] = {}
    for reader in site.readers:
        edits |= _folded_reader(source, names, reader, gamma, beta)
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
    weight_name, part = names.on_disk(reader.weight)[0]
    weight = checked_float(source, weight_name)
    dim = part.axis(reader.in_dim)
    if beta is not None and reader.bias:
        for name, _ in names.on_disk(reader.bias):
            add = partial(_plus_contracted, weight=weight, beta=beta, dim=dim)
            edits[name] = checked_float(source, name).map(add)
    if gamma is not None:
        for name, held in names.on_disk(reader.weight):
            fold = partial(_scaled, gamma=gamma, dim=held.axis(reader.in_dim))
            edits[name] = checked_float(source, name).map(
                fold, by_rows=held.axis(reader.in_dim) > 0
            )
    return edits


def _scaled(weight: Tensor, *, gamma: Vector, dim: int) -> Tensor:
    return scaled(weight, gamma(), dim=dim)


def _plus_contracted(bias: Tensor, *, weight: LazyTensor, beta: Vector, dim: int) -> Tensor:
    return (bias.double() + contracted(weight.load(), beta(), dim=dim)).to(bias.dtype)
