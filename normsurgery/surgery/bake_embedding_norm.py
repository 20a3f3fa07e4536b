"""Bake a norm that reads nothing but looked-up embeddings into the table itself (BLOOM).

Contract: exact. E ← P LN(E), and the norm is gone.
The table must not be tied: `untie` comes first. The stock class would normalize again, so the
result is a graft.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from normsurgery.anatomy.model import Anatomy, NormSite
from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.surgery.centre import checked_float
from normsurgery.surgery.fold_norm import Vector, gain_of, shift_of
from normsurgery.surgery.receipt import Receipt, receipt_of


def bakeable(anatomy: Anatomy) -> list[NormSite]:
    """Norms that write to a convertible stream and read nothing but an embedding table."""
    doors = {online.module for stream in anatomy.convertible() for online in stream.online}
    return [site for site in anatomy.sites.values() if site.table and site.name in doors]


def bake_embedding_norms(
    source: Checkpoint, sites: list[NormSite], names: NameMap
) -> tuple[Checkpoint, Receipt]:
    """Replace each site's table E by P LN(E), row by row, and drop the norm's γ and β."""
    edits: dict[str, LazyTensor] = {}
    gone: list[str] = []
    for site in sites:
        assert site.table is not None
        gamma, beta = gain_of(source, names, site.norm), shift_of(source, names, site.norm)
        bake = partial(normalized_rows, eps=site.norm.eps, gamma=gamma, beta=beta)
        for name, _ in names.on_disk(site.table):
            edits[name] = checked_float(source, name).map(bake, by_rows=True)
        for parameter in (site.norm.weight_name, site.norm.bias_name):
            if parameter:
                gone += [name for name, _ in names.on_disk(parameter)]
    result = source.override(edits).drop(gone)
    return result, receipt_of("bake-embedding-norm", source, result, changed=edits)


def normalized_rows(
    table: Tensor, *, eps: float, gamma: Vector | None, beta: Vector | None
) -> Tensor:
    """P LN(E) for rows [rows, d], in float64, rounded once to the table's dtype."""
    wide = table.double()
    wide = wide - wide.mean(-1, keepdim=True)
    wide = wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt()
    if gamma is not None:
        wide = wide * gamma()
    if beta is not None:
        wide = wide + beta()
    return (wide - wide.mean(-1, keepdim=True)).to(table.dtype)
