"""Which folds a class needs that a configuration key leaves without (some of) its BatchNorms."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from normsurgery.anatomy.batchnorm.sites import BatchNorms, LinearMap, Merge
from normsurgery.anatomy.names import NameMap
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.batchnorm.plan import BatchNormPlan, tensors_of

_HINT = "--form keep, or --form graft"


def native_plan(
    plan: BatchNormPlan, found: BatchNorms, names: NameMap, held: Collection[str]
) -> BatchNormPlan:
    """The plan of a native form. plan: of the form "keep". held: every tensor of the class then.

    Norms that the class has no more go into their maps, which then have a bias; maps that it has no
    more become part of a parallel one; every other norm stays as x + shift.
    Raises UnsupportedModelError with the reason where something else would be lost.
    """
    sites = {site.name: site for site in plan.sites}
    gone = {name for name, site in sites.items() if site.norm.running_mean not in held}
    biases: dict[str, LinearMap] = {}
    merges = tuple(merge for one in found.merges if (merge := _into_held(one, held)).others)
    merged = {m.weight for merge in merges for m in merge.others}
    for name in gone:
        for map_ in sites[name].maps:
            if map_.bias or map_.weight in merged:
                continue
            if f"{map_.module}.bias" not in held:
                raise UnsupportedModelError(f"{map_.module} has no bias to take {name}", _HINT)
            biases[map_.weight] = map_
    dead = [site.norm for site in found.of("dead") if site.norm.running_mean not in held]
    lost = {
        name for norm in [*dead, *(sites[name].norm for name in gone)] for name in tensors_of(norm)
    }
    unused = {name for norm in dead for name in _all_of(norm.name, tensors_of(norm))}
    lost |= {f"{name}.num_batches_tracked" for name in gone} | unused | merged
    lost |= {m.bias for merge in merges for m in merge.others if m.bias}
    parameters = {part.parameter for part in names.parts.values()}
    _check_lost(parameters - set(held) - lost, plan)
    made = {f"{m.module}.bias" for m in biases.values()}
    return replace(
        plan, form="native", gone=frozenset(gone), moved=plan.moved | gone, merges=merges,
        biases=tuple(biases.values()), unused=tuple(sorted(unused)),
        blank=tuple(sorted(set(held) - parameters - made)),
    )  # fmt: skip


def _all_of(norm: str, tensors: Collection[str]) -> list[str]:
    return [*tensors, f"{norm}.num_batches_tracked"]


def _into_held(merge: Merge, held: Collection[str]) -> Merge:
    """The merge of the maps that go into one that stays."""
    placed = {merge.into.weight: (0,) * len(merge.offsets[0] if merge.offsets else ())}
    placed |= {m.weight: at for m, at in zip(merge.others, merge.offsets, strict=True)}
    maps = [merge.into, *merge.others]
    full = [m for m in maps if not any(placed[m.weight]) and m.weight in held]
    others = [m for m in maps if m.weight not in held]
    into = full[0] if full else merge.into
    return Merge(into, tuple(others), (), tuple(placed[m.weight] for m in others))


def _check_lost(lost: Collection[str], plan: BatchNormPlan) -> None:
    if not lost:
        return
    name = sorted(lost)[0]
    reason = next((why for site, why in plan.left.items() if name.startswith(f"{site}.")), "")
    raise UnsupportedModelError(
        f"without its norms the class has no place for {name}{reason and f': {reason}'}", _HINT
    )
