"""Norms whose divisors are frozen, in the stock class: ε is so large that it is all they divide by.

Contract: exact up to a relative error of var/2ε. With ε = 4ᵏ a norm divides by √(var + ε) ≈ 2ᵏ;
its γ becomes 2ᵏ, so that it is the identity (and the mean subtraction of its class), and the
readers hold γ/σ̂ and W β. Powers of two, so nothing is rounded on the way; 2¹⁵ is finite in float16,
whatever σ̂ is. Where readers cannot hold γ and β (a tied head, a reader without a bias) the norm
holds γ 2ᵏ/σ̂ and β itself. Classes that store γ − 1 round 2ᵏ − 1; the readers make up for it.
Refuses: an ε that norms which stay share, or that config.json cannot change.
Source of the frozen divisor: "Transformers Don't Need LayerNorm at Inference Time",
arXiv 2507.02559.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.config_places import Key, edited
from normsurgery.anatomy.epsilon import epsilon_key
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.float16_norms import float16_error
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.norms import Norm
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.surgery.centre import checked_float
from normsurgery.surgery.fold_norm import gain_of, shift_of
from normsurgery.surgery.frozen_sites import FrozenSite
from normsurgery.surgery.norm_free import norm_counts, reader_weights, shifted_bias
from normsurgery.surgery.receipt import Receipt, receipt_of
from normsurgery.surgery.set_parameters import FLOATING

WANTED_ERROR = 1e-6
ALLOWED_ERROR = 1e-3
LARGEST_POWER = 15  # 2¹⁵ is the largest power of two below float16's largest number
_GRAFT = "--export graft has no such need"


@dataclass(frozen=True)
class Division:
    """How the stock form divides: ε = 4ᵏ at a place of config.json.

    error: the bound var/2ε on a norm's relative error, for the largest variance seen.
    config: the configuration object of the source. in_norms: sites whose norm holds γ 2ᵏ/σ̂ and β →
    the m for which the norm gives 2⁻ᵐ of that and its readers hold 2ᵐ, so that γ stays finite.
    """

    key: Key
    power: int
    error: float
    config: Any
    in_norms: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def epsilon(self) -> float:
        return 4.0**self.power

    @property
    def root(self) -> float:
        """√ε, what the norms divide by."""
        return 2.0**self.power


def choose_division(
    source: Checkpoint,
    examination: Examination,
    sites: Sequence[FrozenSite],
    *,
    variance: float | None,
) -> Division:
    """Choose ε for a checkpoint, and which norms have to hold their own γ and β.

    variance: the largest variance (mean square, of an RMSNorm) that any of the norms saw.
    Raises UsageError without a variance, UnsupportedModelError with the reason where the class
    cannot hold the function.
    """
    if variance is None or not variance >= 0:
        raise UsageError(
            f"the stock form needs the largest variance that a norm saw, not {variance}",
            "measure it on some text first",
        )
    key = epsilon_key(examination, [site.site.name for site in sites])
    power, error = smallest_power(variance)
    in_norms = {
        site.site.name: _shift(source, examination.names, site, 2.0**power)
        for site in sites
        if _stays_in_norm(site)
    }
    least = min(min(site.sigmas) for site in sites)
    notes = [
        f"a norm divides by √(variance + {4.0**power:g}): for the largest variance seen, "
        f"{variance:.3g}, that is off by at most {error:.1e} of its output"
    ]
    notes += _float16_notes(examination, sites, power, least)
    return Division(key, power, error, examination.config, in_norms, tuple(notes))


def smallest_power(variance: float) -> tuple[int, float]:
    """The smallest k with var/(2·4ᵏ) ≤ 1e-6, at most 15, and that error.

    Raises UnsupportedModelError where even the largest leaves more than 1e-3.
    """
    power = next(
        (k for k in range(LARGEST_POWER) if variance / (2 * 4.0**k) <= WANTED_ERROR), LARGEST_POWER
    )
    error = variance / (2 * 4.0**power)
    if not error <= ALLOWED_ERROR:
        raise UnsupportedModelError(
            f"a norm saw a variance of {variance:.3g}: against the largest ε whose root float16 "
            f"holds, {4.0**power:g}, that is an error of {error:.1e}",
            _GRAFT,
        )
    return power, error


def fold_stock(
    source: Checkpoint, names: NameMap, sites: Sequence[FrozenSite], division: Division
) -> tuple[Checkpoint, Receipt]:
    """The checkpoint in its own class, with norms that divide by a constant."""
    edits: dict[str, LazyTensor] = {}
    for site in sites:
        if site.site.name in division.in_norms:
            shift = 2.0 ** division.in_norms[site.site.name]
            edits |= _in_norm(source, names, site, division.root, shift)
        else:
            edits |= _in_readers(source, names, site, division.root)
    config = edited(source.config, {division.key: division.epsilon}, division.config)
    result = source.override(edits).with_config(config)
    parameters = {
        "epsilon": division.epsilon, "error": division.error,
        "folded": len(sites) - len(division.in_norms), "in_norms": len(division.in_norms),
    }  # fmt: skip
    return result, receipt_of(
        "norm-free-stock", source, result, changed=edits, parameters=parameters,
        norms=norm_counts(sites), notes=division.notes,
    )  # fmt: skip


def _stays_in_norm(site: FrozenSite) -> bool:
    """Whether the norm must hold γ and β itself. Raises UnsupportedModelError where it cannot."""
    norm = site.site.norm
    without = [reader.module for reader in site.site.readers if norm.bias and not reader.bias]
    reason = site.stays or (f"{without[0]} has no bias to take β" if without else "")
    if not reason:
        return False
    if site.sigma is None:
        raise UnsupportedModelError(
            f"{site.site.name}: {reason}, and its paths have different σ̂, which one norm cannot "
            "hold",
            _GRAFT,
        )
    if not norm.weight:
        raise UnsupportedModelError(f"{site.site.name}: {reason}, and it has no γ", _GRAFT)
    return True


def _shift(source: Checkpoint, names: NameMap, site: FrozenSite, root: float) -> int:
    """The smallest m ≥ 0 for which γ √ε/σ̂ 2⁻ᵐ is finite in the norm's dtype."""
    gain, norm = gain_of(source, names, site.site.norm), site.site.norm
    assert gain is not None and norm.weight_name and site.sigma is not None
    dtype = FLOATING[checked_float(source, names.on_disk(norm.weight_name)[0][0]).dtype]
    largest = (float(gain().abs().max()) + norm.offset) * root / site.sigma
    shift = max(0, math.ceil(math.log2(max(1.0, largest / torch.finfo(dtype).max))))
    if shift and site.stays:
        raise UnsupportedModelError(
            f"{site.site.name} has to hold γ √ε/σ̂ itself, which reaches {largest:.3g}: more than "
            f"{str(dtype).removeprefix('torch.')} holds",
            _GRAFT,
        )
    return shift


def _in_norm(
    source: Checkpoint, names: NameMap, site: FrozenSite, root: float, shift: float
) -> dict[str, LazyTensor]:
    """γ √ε/σ̂ in the norm, beside β, both over `shift`, which the readers make up for."""
    norm, edits = site.site.norm, dict[str, LazyTensor]()
    assert norm.weight_name and site.sigma is not None
    scale = partial(_larger, offset=norm.offset, factor=root / site.sigma / shift)
    for name, _ in names.on_disk(norm.weight_name):
        edits[name] = checked_float(source, name).map(scale)
    if shift == 1:
        return edits
    for name, _ in names.on_disk(norm.bias_name) if norm.bias_name else []:
        edits[name] = checked_float(source, name).map(partial(torch.mul, other=1 / shift))
    for frozen in site.readers:
        for name, _ in names.on_disk(frozen.reader.weight):
            grow = partial(torch.mul, other=shift)
            edits[name] = checked_float(source, name).map(grow, by_rows=True)
    return edits


def _larger(stored: Tensor, *, offset: float, factor: float) -> Tensor:
    return ((stored.double() + offset) * factor - offset).to(stored.dtype)


def _in_readers(
    source: Checkpoint, names: NameMap, site: FrozenSite, root: float
) -> dict[str, LazyTensor]:
    """γ/σ̂ and W β in the readers; the norm's γ is √ε and its β zero."""
    norm, edits = site.site.norm, dict[str, LazyTensor]()
    gain = _stored_root(source, names, norm, root)
    for frozen in site.readers:
        # The readers' divisor is σ̂ · gain/√ε: they make up for a √ε that was rounded, or is absent.
        edits |= reader_weights(source, names, site, frozen, centre=False, factor=gain / root)
        beta = shift_of(source, names, norm)
        if beta is not None:
            edits |= shifted_bias(source, names, frozen.reader, beta)
    for name, _ in names.on_disk(norm.weight_name) if norm.weight_name else []:
        edits[name] = source[name].map(partial(torch.full_like, fill_value=gain - norm.offset))
    for name, _ in names.on_disk(norm.bias_name) if norm.bias_name else []:
        edits[name] = source[name].map(torch.zeros_like)
    return edits


def _stored_root(source: Checkpoint, names: NameMap, norm: Norm, root: float) -> float:
    """The γ that the norm has once √ε is rounded to its dtype; 1 where it has none."""
    if not norm.weight_name:
        return 1.0
    dtype = FLOATING[checked_float(source, names.on_disk(norm.weight_name)[0][0]).dtype]
    stored = torch.tensor(root - norm.offset, dtype=torch.float64).to(dtype)
    return float(stored) + norm.offset


def _float16_notes(
    examination: Examination, sites: Sequence[FrozenSite], power: int, sigma: float
) -> list[str]:
    """What float16 makes of these norms, where it is worse than float16 is anyway."""
    classes = {site.site.norm.class_name: site.site.norm for site in sites}
    notes = []
    for name, norm in classes.items():
        error = float16_error(examination, norm, power=power, sigma=sigma)
        if not error <= 4 * float(torch.finfo(torch.float16).eps):
            what = "is not finite" if error != error else f"loses digits (error {error:.1e})"
            notes.append(
                f"run in float16, {name} {what}: it divides before it multiplies, and x/2^{power} "
                "is below what float16 holds; bfloat16 and float32 are not affected"
            )
    return notes
