"""Which BatchNorms of a checkpoint can take new statistics, and what they store meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from normsurgery.anatomy.batchnorm.read import read_batch_norms
from normsurgery.anatomy.batchnorm.sites import BatchNorm, BatchNormSite
from normsurgery.anatomy.examine import Examination, examine
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UsageError
from normsurgery.surgery.recalibrate import NormValues, reinserted, tensors_of, values_of
from normsurgery.surgery.set_parameters import FLOATING

_NEEDS_REFERENCE = "its scale was folded away, and only the original knows it: --reference ORIGINAL"
_IN_BRANCH = "its scale is in the convolution beside it, which would not follow new statistics"
_BESIDE = "its convolution also holds the scale of the norm beside it, which is none of its input"
_NO_AFFINE = "its scale was folded away, and it has no weight and bias to put one into"


@dataclass(frozen=True)
class Place:
    """A norm with a place for statistics. values: what it computes now, written as a norm.

    dtypes: name in memory → dtype on disk, of the tensors that it stores.
    """

    norm: BatchNorm
    values: NormValues
    reinserted: bool
    dtypes: Mapping[str, torch.dtype]


def find_places(
    checkpoint: Checkpoint, examination: Examination, original: Checkpoint | None
) -> tuple[dict[str, Place], dict[str, str]]:
    """Norm → its place, in the order of modules; and of the others why they have none.

    Raises UsageError where the original has other norms.
    """
    sites = {site.name: site for site in read_batch_norms(examination.twin).sites}
    known = None if original is None else _norms_of(original, sites)
    beside = {m.weight for site in sites.values() if site.kind == "branch" for m in site.maps}
    places: dict[str, Place] = {}
    left: dict[str, str] = {}
    for name, site in sites.items():
        theirs = None if known is None else known[name]
        place = _place(checkpoint, examination, site, theirs, beside)
        if isinstance(place, Place):
            places[name] = place
        else:
            left[name] = place
    return places, left


def placed(module: Any, values: NormValues, dtypes: Mapping[str, torch.dtype]) -> None:
    """Put a norm's values into a loaded module, rounded as the files will round them."""
    with torch.no_grad():
        for attribute, value in (
            ("running_mean", values.mean), ("running_var", values.variance),
            ("weight", values.weight), ("bias", values.bias),
        ):  # fmt: skip
            held = getattr(module, attribute, None)
            if held is not None:
                rounded = value.to(dtypes.get(attribute, held.dtype))
                held.copy_(rounded.view_as(held))


def _place(
    checkpoint: Checkpoint,
    examination: Examination,
    site: BatchNormSite,
    original: NormValues | None,
    beside: Collection[str],
) -> Place | str:
    """The place of one norm, or why it has none. beside: weights that took a branch's scale."""
    norm = site.norm
    if site.kind == "dead":
        return site.reason
    values = values_of(checkpoint, examination.names, norm)
    dtypes = {
        name.removeprefix(f"{norm.name}."): FLOATING[
            checkpoint[examination.names.on_disk(name)[0][0]].dtype
        ]
        for name in tensors_of(norm, values)
    }
    if not values.is_folded or (original is not None and original.is_folded):
        return Place(norm, values, False, dtypes)
    if site.kind == "branch":
        return _IN_BRANCH
    if any(m.weight in beside for m in site.maps):
        return _BESIDE
    if original is None:
        return _NEEDS_REFERENCE
    if norm.weight is None or norm.bias is None:
        return _NO_AFFINE
    new = reinserted(values, original, producer=site.kind == "producer")
    return Place(norm, new, True, dtypes)


def _norms_of(original: Checkpoint, sites: Mapping[str, BatchNormSite]) -> dict[str, NormValues]:
    """The same norms' values in the original."""
    theirs = examine(original)
    found = {site.name: site.norm for site in read_batch_norms(theirs.twin).sites}
    other = set(found) ^ set(sites)
    if other:
        raise UsageError(
            f"the reference has other BatchNorms: {sorted(other)[0]}",
            "name the checkpoint that this one was made from",
        )
    return {name: values_of(original, theirs.names, norm) for name, norm in found.items()}
