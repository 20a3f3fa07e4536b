"""One convolution or linear with the norms around it folded in: new weight and bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from normsurgery.anatomy.batchnorm.sites import BatchNormSite, LinearMap, Merge
from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.surgery.batchnorm.algebra import (
    placed,
    plus_diagonal,
    pushed_through,
    scaled_channels,
)
from normsurgery.surgery.batchnorm.norms import StoredNorm, holds_channel
from normsurgery.surgery.batchnorm.plan import BatchNormPlan
from normsurgery.surgery.centre import checked_float


@dataclass(frozen=True)
class FoldedMap:
    """A map, and the folded norms that it feeds, that read beside it, and that it reads.

    others: parallel maps that become part of this one. turned: the weight lies transposed on disk.
    """

    map: LinearMap
    stored_weight: LazyTensor
    turned: bool
    stored_bias: LazyTensor | None
    plan: BatchNormPlan
    norms: Mapping[str, StoredNorm]
    fed: BatchNormSite | None
    read: BatchNormSite | None
    branches: tuple[BatchNormSite, ...]
    merge: Merge | None
    others: tuple[FoldedMap, ...]

    @property
    def outputs(self) -> int:
        """How many channels come out, on disk."""
        if self.fed:
            return self.norms[self.fed.name].width
        if self.branches:
            return self.norms[self.branches[0].name].width
        return self.stored_weight.shape[1 - self.map.out_dim if self.turned else self.map.out_dim]

    @property
    def shifted(self) -> bool:
        """Whether the bias changes or comes into being; else the norm after it takes a shift."""
        sites = (self.fed, self.read, *self.branches)
        moved = any(site is not None and site.name in self.plan.moved for site in sites)
        new = any(m.weight == self.map.weight for m in self.plan.biases)
        return moved or (bool(self.others) and (self.map.bias is not None or new))

    def weight(self) -> Tensor:
        """The new weight, in float64 and memory's layout."""
        weight = self._weight()
        if self.read:
            affine = self.norms[self.read.name].affine()
            held = holds_channel(self.plan, self.read, affine)
            scale = torch.where(held, torch.ones_like(affine.scale), affine.scale)
            weight = scaled_channels(weight, scale / self._gain(self.read), self.map.in_dim)
        if self.fed:
            scale = self.norms[self.fed.name].affine().scale / self._gain(self.fed)
            weight = scaled_channels(weight, scale, self.map.out_dim)
        for site in self.branches:
            scale = self.norms[site.name].affine().scale
            beside = 0.0 if site.name in self.plan.gone else self.norms[site.name].identity.gain
            values = site.sign * (scale - beside) / self._out_gain
            weight = plus_diagonal(weight, values, site.centre)
        for other, offset in self._merged():
            weight = weight + placed(other.weight(), weight.shape, offset) / self._out_gain
        return weight

    def bias(self) -> Tensor:
        """The new bias, in float64."""
        bias = torch.zeros(self.outputs, dtype=torch.float64)
        if self.stored_bias is not None:
            bias = self.stored_bias.load().double()
        if self.read and self.read.name in self.plan.moved:
            shift = self.norms[self.read.name].affine().shift
            bias = bias + pushed_through(self._weight(), shift, in_dim=self.map.in_dim)
        if self.fed:
            affine = self.norms[self.fed.name].affine()
            bias = bias * affine.scale
            if self.fed.name in self.plan.moved:
                bias = bias + affine.shift
            bias = bias / self._gain(self.fed)
        for site in self.branches:
            if site.name in self.plan.moved:
                bias = bias + site.sign * self.norms[site.name].affine().shift / self._out_gain
        return bias + self.merged_shift() / self._out_gain

    def merged_shift(self) -> Tensor:
        """What the biases of the maps that became part of this one add, in float64 [outputs]."""
        shift = torch.zeros(self.outputs, dtype=torch.float64)
        for other, _ in self._merged():
            shift = shift + other.bias()
        return shift

    def _weight(self) -> Tensor:
        weight = self.stored_weight.load().double()
        return weight.transpose(0, 1) if self.turned else weight

    def _gain(self, site: BatchNormSite) -> float:
        """What the reduced norm multiplies by: nothing, where its module is gone."""
        return 1.0 if site.name in self.plan.gone else self.norms[site.name].identity.gain

    @property
    def _out_gain(self) -> float:
        return self._gain(self.fed) if self.fed else 1.0

    def _merged(self) -> list[tuple[FoldedMap, tuple[int, ...]]]:
        return list(zip(self.others, self.merge.offsets, strict=True)) if self.merge else []


def folded_maps(
    source: Checkpoint,
    names: NameMap,
    plan: BatchNormPlan,
    norms: Mapping[str, StoredNorm],
) -> list[FoldedMap]:
    """Every map that changes; those that become part of another are inside it."""
    maps = {m.weight: m for site in plan.sites for m in site.maps}
    for merge in plan.merges:
        maps |= {m.weight: m for m in (merge.into, *merge.others)}

    def made(map_: LinearMap, merge: Merge | None) -> FoldedMap:
        name, part = names.on_disk(map_.weight)[0]
        bias = checked_float(source, names.on_disk(map_.bias)[0][0]) if map_.bias else None
        around = [s for s in plan.sites if any(m.weight == map_.weight for m in s.maps)]
        others = tuple(made(other, None) for other in merge.others) if merge else ()
        return FoldedMap(
            map_, checked_float(source, name), part.transposed, bias, plan, norms,
            fed=next((site for site in around if site.kind == "producer"), None),
            read=next((site for site in around if site.kind == "consumer"), None),
            branches=tuple(site for site in around if site.kind == "branch"),
            merge=merge, others=others,
        )  # fmt: skip

    merged = {m.weight for merge in plan.merges for m in merge.others}
    into = {merge.into.weight: merge for merge in plan.merges}
    return [made(m, into.get(m.weight)) for m in maps.values() if m.weight not in merged]
