"""One BatchNorm on disk: its scale and shift, read when needed, and its reduced form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from normsurgery.anatomy.batchnorm.sites import BatchNorm, BatchNormSite
from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import CheckpointError
from normsurgery.surgery.batchnorm.identity import Identity, identity_for
from normsurgery.surgery.batchnorm.plan import BatchNormPlan, tensors_of
from normsurgery.surgery.centre import checked_float

# A consumer fold leaves x + c/a in the norm; where c/a would drown x, the channel stays as it was.
_DROWNED = 64.0


@dataclass(frozen=True)
class Affine:
    """a and c [width] in float64; drowned [width]: channels with |β| ≥ 64 |γ|, or γ = 0."""

    scale: Tensor
    shift: Tensor
    drowned: Tensor


@dataclass(frozen=True)
class StoredNorm:
    """A norm's tensors. identity: what it stores once its scale is folded.

    ignored: the norm passes for one that does nothing: wrong on purpose.
    """

    norm: BatchNorm
    tensors: Mapping[str, LazyTensor]
    identity: Identity
    ignored: bool = False

    @property
    def width(self) -> int:
        return self.tensors[self.norm.running_mean].shape[0]

    def affine(self) -> Affine:
        """Raises CheckpointError for a running variance with no square root."""
        norm = self.norm
        if self.ignored:
            one = torch.ones(self.width, dtype=torch.float64)
            return Affine(one, torch.zeros_like(one), one == 0)
        variance = self._wide(norm.running_var) + norm.eps
        if not bool((variance > 0).all()):
            raise CheckpointError(
                f"{norm.running_var} holds a value below −ε, or none at all: no norm divides by it",
                "the file is damaged, or the model was never trained",
            )
        gamma = self._wide(norm.weight) if norm.weight else torch.ones_like(variance)
        beta = self._wide(norm.bias) if norm.bias else torch.zeros_like(variance)
        scale = gamma / variance.sqrt()
        drowned = gamma.abs() * _DROWNED <= beta.abs()
        return Affine(scale, beta - scale * self._wide(norm.running_mean), drowned)

    def _wide(self, name: str) -> Tensor:
        return self.tensors[name].load().double()


def stored_norms(
    source: Checkpoint, names: NameMap, plan: BatchNormPlan, *, unfolded: Collection[str] = ()
) -> dict[str, StoredNorm]:
    """Site name → its norm on disk, for the sites of a plan. unfolded: those to ignore."""
    found = {}
    for site in plan.sites:
        tensors = {
            name: checked_float(source, names.on_disk(name)[0][0]) for name in tensors_of(site.norm)
        }
        identity = identity_for(
            [plan.dtype] if plan.dtype else [tensor.dtype for tensor in tensors.values()],
            site.norm.eps,
            weighted=site.norm.weight is not None,
        )
        found[site.name] = StoredNorm(site.norm, tensors, identity, site.name in unfolded)
    return found


def holds_channel(plan: BatchNormPlan, site: BatchNormSite, affine: Affine) -> Tensor:
    """Which channels [width] keep their scale in the norm: a consumer's drowned ones."""
    if site.kind != "consumer" or site.name in plan.moved or site.norm.weight is None:
        return torch.zeros_like(affine.drowned)
    return affine.drowned


def reduced_norm(
    source: Checkpoint,
    names: NameMap,
    plan: BatchNormPlan,
    site: BatchNormSite,
    stored: StoredNorm,
    *,
    beside: Callable[[], Tensor] | None = None,
) -> dict[str, LazyTensor]:
    """The edits that make the norm x + shift. beside: a further shift [width], if there is one."""
    norm, identity = site.norm, stored.identity
    holder = norm.bias or norm.running_mean
    sign = 1.0 if norm.bias else -1.0 / identity.gain

    def shift() -> Tensor:
        further = beside() if beside else torch.zeros(stored.width, dtype=torch.float64)
        if site.name in plan.moved:
            return sign * further
        affine = stored.affine()
        if site.kind != "consumer":
            return sign * (affine.shift + further)
        held = holds_channel(plan, site, affine)
        apart = torch.where(held, torch.ones_like(affine.scale), affine.scale)
        return sign * identity.gain * affine.shift / apart

    def weight() -> Tensor:
        full = torch.full((stored.width,), identity.weight, dtype=torch.float64)
        if site.kind != "consumer" or site.name in plan.moved:
            return full
        affine = stored.affine()
        return torch.where(holds_channel(plan, site, affine), full * affine.scale, full)

    values: dict[str, Callable[[], Tensor]] = {
        norm.running_mean: lambda: torch.zeros(stored.width, dtype=torch.float64),
        norm.running_var: lambda: torch.full(
            (stored.width,), identity.running_var, dtype=torch.float64
        ),
    }
    if norm.weight:
        values[norm.weight] = weight
    values[holder] = shift
    return {
        name: source[name].map(partial(_as_stored, make))
        for parameter, make in values.items()
        for name, _ in names.on_disk(parameter)
    }


def _as_stored(make: Callable[[], Tensor], stored: Tensor) -> Tensor:
    return make().to(stored.dtype)
