"""Fold a norm's γ alone into the linears that read it, where they have no bias to take β.

Contract: exact. γ ⊙ x̂ + β = γ ⊙ (x̂ + β/γ): W ← W diag(γ), γ ← 1, β ← β/γ.
Refuses: a γ with a value near zero, where β/γ would lose precision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from torch import Tensor

from normsurgery.anatomy.model import NormSite
from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.surgery.centre import checked_float
from normsurgery.surgery.fold_norm import Vector, folded_site, gain_of, why_not_foldable

_SMALL = 1e-3  # of the largest |γ|


def why_no_gain_folds(source: Checkpoint, site: NormSite, names: NameMap) -> str | None:
    """Why γ cannot leave this norm while its β stays, or None. Reads γ."""
    reason = why_not_foldable(_without_shift(site), names)
    if reason is not None or not site.norm.bias:
        return reason
    gain = gain_of(source, names, site.norm)
    assert gain is not None
    sizes = gain().abs()
    if float(sizes.min()) < _SMALL * float(sizes.max()):
        return "its readers have no bias to take β, and γ is too close to zero somewhere"
    return None


def fold_gains(source: Checkpoint, names: NameMap, sites: Iterable[NormSite]) -> Checkpoint:
    """Fold γ of these sites; what is left of each norm is x̂ + β/γ."""
    for site in sites:
        gain = gain_of(source, names, site.norm)
        assert gain is not None
        edits: dict[str, LazyTensor] = folded_site(source, names, _without_shift(site))
        for name, _ in names.on_disk(site.norm.bias_name) if site.norm.bias_name else []:
            edits[name] = checked_float(source, name).map(partial(_divided, gain=gain))
        source = source.override(edits)
    return source


def _without_shift(site: NormSite) -> NormSite:
    return replace(site, norm=replace(site.norm, bias=None))


def _divided(bias: Tensor, *, gain: Vector) -> Tensor:
    return (bias.double() / gain()).to(bias.dtype)
