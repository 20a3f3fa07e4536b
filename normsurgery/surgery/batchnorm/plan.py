"""Decide what becomes of every BatchNorm: which fold, where their shifts go, which maps merge."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from normsurgery.anatomy.batchnorm.sites import (
    BatchNorm,
    BatchNorms,
    BatchNormSite,
    LinearMap,
    Merge,
)
from normsurgery.anatomy.names import NameMap
from normsurgery.surgery.set_parameters import FLOATING

Form = Literal["keep", "graft", "native"]


@dataclass(frozen=True)
class BatchNormPlan:
    """The folds of one form.

    sites: those that fold. left: every other norm → why it stays as it is. moved: folded norms
    whose shift goes into the maps' biases. gone: folded norms whose module is no longer needed.
    biases: maps that get a bias. merges: parallel maps that become one; the modules of the others,
    and norms beside them, then give zero. merges_left: map → why it is not merged. dtype: what the
    result is stored in (safetensors' spelling), where that is not the source's. unused: of a native
    form, tensors that never run and that the class has no more; blank: biases that it then has.
    """

    form: Form
    sites: tuple[BatchNormSite, ...]
    left: Mapping[str, str]
    moved: frozenset[str]
    gone: frozenset[str] = frozenset()
    biases: tuple[LinearMap, ...] = ()
    merges: tuple[Merge, ...] = ()
    merges_left: Mapping[str, str] = field(default_factory=dict)
    dtype: str | None = None
    unused: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()

    @property
    def silent(self) -> tuple[str, ...]:
        """Modules that give zero, as another map holds what they gave."""
        branches = [s.name for s in self.sites if s.kind == "branch" and s.name in self.gone]
        return (*branches, *(map_.module for merge in self.merges for map_ in merge.others))

    @property
    def removed(self) -> tuple[str, ...]:
        """Norm modules that become the identity (or the activation that they apply)."""
        silent = set(self.silent)
        return tuple(s.name for s in self.sites if s.name in self.gone and s.name not in silent)

    @property
    def kept(self) -> tuple[BatchNormSite, ...]:
        """Folded norms whose module stays, reduced to x + shift."""
        return tuple(site for site in self.sites if site.name not in self.gone)


def plan_folds(
    found: BatchNorms, names: NameMap, *, form: Form, dtypes: Mapping[str, str] | None = None
) -> BatchNormPlan:
    """Choose the folds. names: of the checkpoint that will be edited; dtypes: of its tensors."""
    left = {site.name: site.reason for site in found.sites if site.kind in ("stays", "dead")}
    sites = []
    for site in found.folded:
        reason = _why_not(site, names, dtypes or {})
        if reason:
            left[site.name] = reason
        else:
            sites.append(site)
    sites = _with_their_maps(sites, found, left)
    if form == "keep":
        moved = frozenset(site.name for site in sites if _all_shift(site, _has_bias))
        return BatchNormPlan(form, tuple(sites), left, moved)
    gone = frozenset(site.name for site in sites if _all_shift(site, _may_have_bias))
    merges, merges_left = _merges(found, sites, gone)
    wanted = [m for s in sites if s.name in gone for m in s.maps]
    into = [merge.into for merge in merges]
    other = {m.weight for merge in merges for m in merge.others}
    biases = {m.weight: m for m in [*wanted, *into] if not m.bias and m.weight not in other}
    return BatchNormPlan(
        form, tuple(sites), left, gone, gone, tuple(biases.values()), merges, merges_left
    )


def _all_shift(site: BatchNormSite, able: Callable[[LinearMap], bool]) -> bool:
    """Whether the biases of a site's maps can hold its shift."""
    # what a transposed convolution makes of a constant differs from place to place
    read_turned = site.kind == "consumer" and any(m.transposed for m in site.maps)
    return not read_turned and all(map(able, site.maps))


def _has_bias(map_: LinearMap) -> bool:
    return map_.bias is not None


def _may_have_bias(map_: LinearMap) -> bool:
    return map_.bias is not None or (bool(map_.module) and map_.can_take_bias)


def tensors_of(norm: BatchNorm) -> tuple[str, ...]:
    """The names in memory of a norm's tensors."""
    held = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return tuple(name for name in held if name)


def _why_not(site: BatchNormSite, names: NameMap, dtypes: Mapping[str, str]) -> str:
    """Why a fold cannot be written to this checkpoint, "" where it can."""
    held = {part.parameter: (name, part) for name, part in names.parts.items()}
    wanted = [*tensors_of(site.norm), *(m.weight for m in site.maps)]
    wanted += [m.bias for m in site.maps if m.bias]
    for parameter in wanted:
        found = held.get(names.tied.get(parameter, parameter)) or held.get(parameter)
        if found is None or found[1].index is not None or found[1].chunk is not None:
            joint = names.joint(parameter) or (found[0] if found else None)
            where = f"only a piece of {joint}" if joint else "not in the checkpoint"
            return f"{parameter} is {where} on disk"
        dtype = dtypes.get(found[0])
        if dtype is not None and dtype not in FLOATING:
            return f"{found[0]} is stored as {dtype}, which a scale cannot be multiplied into"
    return ""


def _with_their_maps(
    sites: list[BatchNormSite], found: BatchNorms, left: dict[str, str]
) -> list[BatchNormSite]:
    """Without the branches beside a map whose own norm keeps its scale."""
    scaled = {m.weight for s in found.sites if s.kind == "producer" for m in s.maps}
    scaled -= {m.weight for s in sites if s.kind == "producer" for m in s.maps}
    result = []
    for site in sites:
        if site.kind == "branch" and site.maps[0].weight in scaled:
            left[site.name] = f"the norm after {site.maps[0].module} stays"
        else:
            result.append(site)
    return result


def _merges(
    found: BatchNorms, sites: Collection[BatchNormSite], gone: Collection[str]
) -> tuple[tuple[Merge, ...], dict[str, str]]:
    """The merges that can be made, and for the others the reason why not."""
    staying = {
        m.weight: site.name for site in found.sites if site.name not in gone for m in site.maps
    }
    left: dict[str, str] = {}
    merges = []
    for merge in found.merges:
        maps = [merge.into, *merge.others]
        odd = next((m for m in maps if m.weight in staying), None)
        if odd is not None:
            left[merge.into.weight] = f"{staying[odd.weight]} stays"
        elif not all(m.module for m in merge.others) or not _may_have_bias(merge.into):
            left[merge.into.weight] = "no module of its own runs each of the parallel maps"
        elif merge.others:
            merges.append(merge)
    return tuple(merges), left
