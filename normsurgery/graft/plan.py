"""What a modeling file has to change in the stock class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from normsurgery.anatomy.batchnorm.sites import BatchNorms
from normsurgery.anatomy.model import Anatomy, NormSite
from normsurgery.anatomy.names import NameMap
from normsurgery.surgery.batchnorm_plan import BatchNormPlan
from normsurgery.surgery.crmsnorm import bias_of
from normsurgery.surgery.fold_norm import stream_sites
from normsurgery.surgery.frozen_sites import FrozenSite


@dataclass(frozen=True)
class GraftPlan:
    """Changes to the stock class, by module and parameter names of that class.

    norms: LayerNorms that become RMSNorms (CRMSNorms where channels are narrowed).
    centred_outputs, centred_inputs: modules whose result, or first argument, loses its mean.
    removed: norms that become the identity. narrowed: (parameter, axis) with one channel less.
    biases: linears that get a bias. exclusive: the stock class would compute something else, so
    the checkpoint has a model type of its own and the stock class refuses it. norm_free: the norms
    do not divide: `norms` are those that stay, as affine maps. batch_norms: of a plan whose
    BatchNorms are folded; then `removed` become the identity, `activated` (norms that also apply
    an activation) keep that alone, and `silent` modules give zero: another holds what they gave.
    """

    norms: tuple[NormSite, ...]
    centred_outputs: tuple[str, ...] = ()
    centred_inputs: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    narrowed: tuple[tuple[str, int], ...] = ()
    biases: tuple[str, ...] = ()
    exclusive: bool = False
    norm_free: bool = False
    batch_norms: BatchNorms | None = None
    activated: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        if self.batch_norms is not None:
            return "foldedbn"
        if self.norm_free:
            return "normfree"
        return "crmsnorm" if self.narrowed else "rmsnorm"


def why_not_exclusive(names: NameMap) -> str | None:
    """Why the checkpoint cannot get a model type of its own, or None."""
    stacked = next((name for name, part in names.parts.items() if part.index is not None), None)
    if stacked is None:
        return None
    return (
        f"{stacked} is stacked with others when the stock model type is loaded, and a checkpoint "
        "with a model type of its own is loaded without such rules"
    )


def rmsnorm_plan(
    anatomy: Anatomy, *, baked: tuple[str, ...] = (), exclusive: bool = False
) -> GraftPlan:
    """LayerNorm → RMSNorm at every site of the convertible streams. baked: norms that are gone."""
    online = [door for stream in anatomy.convertible() for door in stream.online]
    return GraftPlan(
        norms=tuple(stream_sites(anatomy)),
        centred_outputs=tuple(
            door.module for door in online if door.at == "output" and door.module not in baked
        ),
        centred_inputs=tuple(door.module for door in online if door.at == "input"),
        removed=baked,
        exclusive=exclusive,
    )


def crmsnorm_plan(anatomy: Anatomy) -> GraftPlan:
    """CRMSNorm at every site, writers and readers one channel narrower."""
    sites = tuple(stream_sites(anatomy))
    narrowed: dict[tuple[str, int], None] = {}
    biases: dict[str, None] = {}
    for stream in anatomy.convertible():
        for writer in stream.writers:
            narrowed[writer.weight, writer.stream_dim] = None
            narrowed.update(dict.fromkeys((n, 0) for n in (writer.bias, writer.scale) if n))
    for site in sites:
        for reader in site.readers:
            narrowed[reader.weight, reader.in_dim] = None
            if site.norm.bias and not reader.bias:
                biases[bias_of(reader).rpartition(".")[0]] = None
    return GraftPlan(
        norms=sites,
        narrowed=tuple(narrowed),
        biases=tuple(biases),
        exclusive=True,
    )


def normfree_plan(sites: Sequence[FrozenSite]) -> GraftPlan:
    """Norms with frozen divisors: gone where the readers hold them, else an affine map."""
    return GraftPlan(
        norms=tuple(site.site for site in sites if site.stays),
        removed=tuple(site.site.name for site in sites if not site.stays),
        biases=tuple(dict.fromkeys(module for site in sites for module in site.biases)),
        exclusive=True,
        norm_free=True,
    )


def foldedbn_plan(found: BatchNorms, plan: BatchNormPlan) -> GraftPlan:
    """BatchNorms that their neighbours hold, and parallel maps that one of them holds."""
    acting = {site.name for site in plan.sites if site.norm.activates}
    return GraftPlan(
        norms=(),
        removed=tuple(name for name in plan.removed if name not in acting),
        activated=tuple(name for name in plan.removed if name in acting),
        silent=plan.silent,
        biases=tuple(map_.module for map_ in plan.biases),
        exclusive=True,
        batch_norms=found,
    )
