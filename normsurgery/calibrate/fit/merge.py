"""Units of dropped blocks that the seam takes over: heads and neurons, chosen by least squares.

The seam has room for as many heads and neurons as a block has. Candidates are its own and those of
the blocks that are dropped behind it, their readers expressed for the seam's norm. The regression
of what is missing on all candidates tells, by its Gram matrix alone, what each unit is worth:
leaving a group g out raises the squared error by tr(W_gᵀ ((XᵀX)⁻¹_gg)⁻¹ W_g), the "optimal brain
surgeon" (Hassibi and Stork 1993) for a linear layer. The cheapest are left out, the rest refitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from normsurgery.anatomy.model import NormSite
from normsurgery.calibrate.fit.blocks import LoadedBlock
from normsurgery.calibrate.fit.gram import Moments, cholesky
from normsurgery.calibrate.fit.units import Units

_ROUNDS = 16  # in which surplus units are left out
_SMALLEST_GAIN = 1e-2  # × the mean |γ|: what a folded reader is divided by at most


@dataclass(frozen=True)
class Donor:
    """What a block gives: readers (relative parameter → value) and the writer's matrix, float64.

    writer: [d, channels] and perhaps a column with the bias.
    """

    readers: Mapping[str, Tensor]
    writer: Tensor


@dataclass(frozen=True)
class Candidates:
    """Units that a writer may read at the seam: its own first, then those of dropped blocks."""

    units: Units
    donors: tuple[Donor, ...]


def folded_readers(donor: LoadedBlock, seam: LoadedBlock, units: Units) -> dict[str, Tensor]:
    """A donor's readers as they read the seam's norm: W γ/γ′, b + W β − W′ β′; float64.

    Keys are the seam's parameter names. A reader without a bias keeps none: what it lacks is small
    and the regression sees it.
    """
    gain, shift = _affine(donor, units.site)
    own_gain, own_shift = _affine(seam, units.site)
    ratio = gain / _away_from_zero(own_gain)
    values: dict[str, Tensor] = {}
    for reader in units.readers:
        name = local_name(seam, reader.weight)
        weight = donor.value(name)
        view = (1, -1) if reader.in_dim == 1 else (-1, 1)
        values[name] = weight * ratio.view(view)
        if reader.bias is not None:
            before = torch.tensordot(weight, shift, dims=([reader.in_dim], [0]))
            after = torch.tensordot(values[name], own_shift, dims=([reader.in_dim], [0]))
            bias = local_name(seam, reader.bias)
            values[bias] = donor.value(bias) + before - after
    return values


def _affine(block: LoadedBlock, site: NormSite) -> tuple[Tensor, Tensor]:
    """γ and β of a block's norm, [d] each, float64. site: of any block, for the names."""
    norm = site.norm
    path = ".".join(_tail(block, site.name))
    gain = torch.ones(norm.width, dtype=torch.float64, device=block.blockwise.device)
    shift = torch.zeros_like(gain)
    if norm.weight:
        gain = block.value(f"{path}.{norm.weight}") + norm.offset
        shift = torch.zeros_like(gain)
    if norm.bias:
        shift = block.value(f"{path}.{norm.bias}")
    return gain.flatten(), shift.flatten()


def _away_from_zero(gain: Tensor) -> Tensor:
    floor = _SMALLEST_GAIN * float(gain.abs().mean())
    return torch.where(gain < 0, gain.clamp(max=-floor), gain.clamp(min=floor))


def local_name(block: LoadedBlock, full: str) -> str:
    return ".".join(_tail(block, full))


def _tail(block: LoadedBlock, full: str) -> list[str]:
    """The path below a block; `full` may name any block of the stack."""
    depth = block.blockwise.stack.blocks[block.index].count(".") + 1
    return full.split(".")[depth:]


def taken_over(block: LoadedBlock, candidates: Candidates, kept: Tensor) -> dict[str, Tensor]:
    """The readers of a merged seam. kept: [count] ascending; unit u of candidate k is k·count + u.

    Candidate 0 is the seam itself. The kept units stand in that order.
    """
    units = candidates.units
    places = torch.arange(units.count)
    values: dict[str, Tensor] = {}
    for index, reader in enumerate(units.readers):
        for full, axis in ((reader.weight, 1 - reader.in_dim), (reader.bias, 0)):
            if full is None:
                continue
            name = local_name(block, full)
            own = block.value(name)
            value = own.clone()
            for number, donor in enumerate([None, *candidates.donors]):
                mine = kept // units.count == number
                here = units.rows(index, places[mine]).to(own.device)
                there = units.rows(index, kept[mine] % units.count).to(own.device)
                source = own if donor is None else donor.readers[name]
                value.index_copy_(axis, here, source.index_select(axis, there))
            values[name] = value
    return values


def worth_keeping(
    moments: Moments, present: Tensor, groups: Tensor, keep: int, ridge: float
) -> Tensor:
    """The groups of regressors that explain most: [keep], ascending.

    moments: of p regressors. present: W₀ [o, p]. groups: [number, width], indices of regressors;
    regressors in no group always stay. ridge: × the mean of the diagonal.
    """
    factor = cholesky(moments.gram, ridge)
    inverse = torch.cholesky_inverse(factor)
    residual = moments.cross - moments.gram @ present.T
    weight = present.T + torch.cholesky_solve(residual, factor)
    alive = torch.arange(len(groups))
    # where the surviving regressors of each group stand in the shrinking matrices
    place = torch.arange(len(inverse), device=inverse.device)
    surplus = len(groups) - keep
    while len(alive) > keep:
        count = min(len(alive) - keep, max(1, surplus // _ROUNDS))
        where = _positions(place, groups[alive].to(place.device))
        worth = _worth(inverse, weight, where)
        drop = worth.argsort()[:count]
        gone = where[drop].flatten()
        rest = torch.ones(len(place), dtype=torch.bool, device=place.device)
        rest[gone] = False
        inverse, weight = _without(inverse, weight, gone, rest)
        place = place[rest]
        staying = torch.ones(len(alive), dtype=torch.bool)
        staying[drop.cpu()] = False
        alive = alive[staying]
    return alive


def _positions(place: Tensor, indices: Tensor) -> Tensor:
    """Where indices stand among `place` (ascending)."""
    return torch.searchsorted(place, indices.contiguous())


def _worth(inverse: Tensor, weight: Tensor, where: Tensor) -> Tensor:
    """By how much the squared error rises without each group. where: [number, width]."""
    blocks = inverse[where[:, :, None], where[:, None, :]]
    held = weight[where]
    worth: Tensor = (held * torch.linalg.solve(blocks, held)).sum((1, 2))
    return worth


def _without(inverse: Tensor, weight: Tensor, gone: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse and solution of the smaller problem, by a Schur complement."""
    across = torch.linalg.solve(inverse[gone][:, gone], inverse[gone][:, rest])
    kept = inverse[rest][:, rest] - inverse[rest][:, gone] @ across
    return kept, weight[rest] - across.T @ weight[gone]
