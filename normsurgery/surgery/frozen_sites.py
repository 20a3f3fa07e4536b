"""Norm sites whose divisors are frozen: which reader holds which σ̂, and which norms stay.

A site's paths are gathered by reader. Where a reader cannot hold the norm (the norm's output is
also something else, or β needs a bias that the module would not add) the norm stays in its place
as an affine map, without a division.
Source of the frozen divisor: "Transformers Don't Need LayerNorm at Inference Time",
arXiv 2507.02559.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from normsurgery.anatomy.model import Anatomy, NormSite, Reader
from normsurgery.anatomy.norm_paths import NormPath
from normsurgery.errors import UnsupportedModelError, UsageError

_ALL = "remove every path of a site, or none"


@dataclass(frozen=True)
class FrozenReader:
    """A reader and its σ̂: one for all outputs (channels None), or one for each set of them."""

    reader: Reader
    shares: tuple[tuple[tuple[int, ...] | None, float], ...]

    def divisor(self, outputs: int) -> Tensor:
        """σ̂ in float64: one number, or [outputs] where they differ.

        Raises UnsupportedModelError where an output has none, or two.
        """
        if [channels for channels, _ in self.shares] == [None]:
            return torch.tensor(self.shares[0][1], dtype=torch.float64)
        divisor = torch.zeros(outputs, dtype=torch.float64)
        for channels, sigma in self.shares:
            index = torch.tensor(range(outputs) if channels is None else channels)
            if bool(divisor[index].any()):
                raise UnsupportedModelError(
                    f"{self.reader.weight}: an output channel is on two paths", _ALL
                )
            divisor[index] = sigma
        if not bool(divisor.all()):
            raise UnsupportedModelError(
                f"{self.reader.weight}: some of its outputs keep a norm and some do not", _ALL
            )
        return divisor


@dataclass(frozen=True)
class FrozenSite:
    """A norm whose divisor is frozen. stays: why it remains as an affine map, "" if it does not.

    biases: modules of the readers that get a bias. sigmas: one a path. parted: whether the site
    has several paths, though only one σ̂ may be known yet.
    """

    site: NormSite
    readers: tuple[FrozenReader, ...]
    sigmas: tuple[float, ...]
    stays: str = ""
    biases: tuple[str, ...] = ()
    parted: bool = False

    @property
    def sigma(self) -> float | None:
        """The one σ̂ of the site, None where its paths differ."""
        return self.sigmas[0] if len(set(self.sigmas)) == 1 and not self.parted else None

    @property
    def centres(self) -> bool:
        """Whether the norm subtracts the mean."""
        return self.site.norm.kind == "LayerNorm"


def frozen_sites(
    paths: Sequence[NormPath],
    sigma: Mapping[str, float],
    anatomy: Anatomy,
    *,
    biasable: Collection[str] | None = None,
    parted: Collection[str] = (),
) -> tuple[FrozenSite, ...]:
    """The sites of these paths, in their order.

    sigma: path name → σ̂ > 0. anatomy: of the checkpoint that is edited, which may be untied where
    that of the paths was not. biasable: modules that add a bias if they get one; None: no module
    gets one, and what becomes of β is not decided here. parted: sites of several paths, where
    `paths` does not tell.
    Raises UsageError for a σ̂ that is missing, zero or not finite; UnsupportedModelError where only
    a part of a site is removed.
    """
    grouped: dict[str, list[NormPath]] = {}
    for path in paths:
        value = sigma.get(path.name)
        if value is None or not (math.isfinite(value) and value > 0):
            raise UsageError(
                f"σ̂ of {path.name} is {value}: it must be a number above 0",
                "measure it on some text first",
            )
        grouped.setdefault(path.site.name, []).append(path)
    return tuple(
        _frozen_site(anatomy.sites[name], members, sigma, biasable, parted=name in parted)
        for name, members in grouped.items()
    )


def _frozen_site(
    site: NormSite,
    paths: Sequence[NormPath],
    sigma: Mapping[str, float],
    biasable: Collection[str] | None,
    *,
    parted: bool,
) -> FrozenSite:
    sigmas = tuple(sigma[path.name] for path in paths)
    frozen = FrozenSite(site, (), sigmas, parted=parted)
    if site.norm.axis != -1:
        raise UnsupportedModelError(
            f"{site.name} normalizes axis {site.norm.axis} and not the last",
            "leave it out: --sites",
        )
    if site.unfoldable or not site.readers:
        return _staying(frozen, site.unfoldable or "nothing reads it")
    readers = _readers(site, paths, sigma)
    if biasable is None:
        return replace(frozen, readers=readers)
    without = [reader.module for reader in site.readers if site.norm.bias and not reader.bias]
    unable = [module for module in without if module not in biasable]
    if unable:
        return _staying(frozen, f"{unable[0]} has no bias to take β")
    return replace(frozen, readers=readers, biases=tuple(dict.fromkeys(without)))


def _staying(frozen: FrozenSite, reason: str) -> FrozenSite:
    if frozen.sigma is None:
        raise UnsupportedModelError(
            f"{frozen.site.name} has to stay as an affine map ({reason}), and its paths have "
            "different σ̂, which one map cannot hold",
            "--sites without this kind of site",
        )
    return replace(frozen, stays=reason)


def _readers(
    site: NormSite, paths: Sequence[NormPath], sigma: Mapping[str, float]
) -> tuple[FrozenReader, ...]:
    if len(paths) == 1 and not paths[0].parts:  # in the tied model the norm could not be folded
        return tuple(FrozenReader(r, ((None, sigma[paths[0].name]),)) for r in site.readers)
    found = []
    for reader in site.readers:
        shares = tuple(
            (part.channels, sigma[path.name])
            for path in paths
            for part in path.parts
            if _same(part.reader, reader, site, paths)
        )
        if not shares:
            raise UnsupportedModelError(
                f"{reader.module} reads {site.name} too, and is on no path that is removed", _ALL
            )
        found.append(FrozenReader(reader, shares))
    return tuple(found)


def _same(part: Reader, reader: Reader, site: NormSite, paths: Sequence[NormPath]) -> bool:
    """Whether a path's reader is this one, which untying may have given a weight of its own."""
    if part.weight == reader.weight:
        return True
    alone = len(site.readers) == 1 and len(paths) == 1
    return alone and part.module == reader.module
