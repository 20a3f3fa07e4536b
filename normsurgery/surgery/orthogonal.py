"""Orthogonal matrices to rotate a stream with, and the rotation of a stored matrix along an axis.

A Hadamard rotation is never made whole: its product with a vector is a fast Walsh–Hadamard
transform. All in float64, in slabs, and rounded once at the end.
Sources: QuaRot, arXiv 2404.00456; SpinQuant, arXiv 2405.16406.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from normsurgery.surgery.hadamard import hadamard, hadamard_factors

Kind = Literal["hadamard", "random"]
_SLAB_ELEMENTS = 256 << 10  # 2 MiB in float64: a slab stays in the processor's cache


@dataclass(frozen=True)
class Rotation:
    """An orthogonal matrix Q [width, width], given by what it is made from.

    kind: "hadamard" is H D/√d, with random signs D; "random" is uniform over all rotations and
    reflections. keeps_ones: Q 1 = 1, so that Q commutes with the centring of a LayerNorm; then a
    "hadamard" one is H D Hᵀ/d, with D₀ = 1. `rotation` makes one that exists.
    """

    kind: Kind
    width: int
    seed: int
    keeps_ones: bool = False

    def of(self, rows: Tensor) -> Tensor:
        """Q v of every row v: [..., width] in float64 → the same shape."""
        if self.kind == "random":
            return linear(rows, self._dense)
        if self.keeps_ones:
            inner = self._transform(rows, transposed=True) * self._signs
            return self._transform(inner) / self.width
        return self._transform(rows * self._signs) / math.sqrt(self.width)

    @cached_property
    def sha256(self) -> str:
        """Of Q's float64 values, row by row, little-endian."""
        digest = hashlib.sha256()
        for columns in _ranges(self.width, max(1, _SLAB_ELEMENTS // self.width)):
            # the hash is taken column by column of Qᵀ, which are the rows of Q
            digest.update(self._rows(columns).contiguous().numpy().astype("<f8").tobytes())
        return digest.hexdigest()

    def matrix(self) -> Tensor:
        """Q as a whole, [width, width]."""
        return self._rows(slice(0, self.width))

    def to_dict(self) -> dict[str, object]:
        """What it takes to make it again, and what must come out."""
        return {
            "kind": self.kind, "width": self.width, "seed": self.seed,
            "keeps_ones": self.keeps_ones, "sha256": self.sha256,
        }  # fmt: skip

    def _rows(self, rows: slice) -> Tensor:
        """Those rows of Q: Q's transpose applied to unit vectors."""
        unit = torch.eye(self.width, dtype=torch.float64)[rows]
        if self.kind == "random":
            return self._dense[rows]
        if self.keeps_ones:  # symmetric where H D Hᵀ is: D is diagonal
            return self.of(unit)
        return self._transform(unit, transposed=True) * self._signs / math.sqrt(self.width)

    @cached_property
    def _signs(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        signs = torch.randint(2, (self.width,), generator=generator).double() * 2 - 1
        if self.keeps_ones:
            signs[0] = 1
        return signs

    @cached_property
    def _dense(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        if not self.keeps_ones:
            return _uniform(self.width, generator)
        inner = torch.eye(self.width, dtype=torch.float64)
        inner[1:, 1:] = _uniform(self.width - 1, generator)
        mirror = _first_to_ones(self.width)
        return mirror @ inner @ mirror

    def _transform(self, rows: Tensor, *, transposed: bool = False) -> Tensor:
        """H v, or Hᵀ v, of every row: one small product a Kronecker factor."""
        factors = hadamard_factors(self.width)
        assert factors is not None
        shape = rows.shape
        after = 1
        for order in reversed(factors):
            small = hadamard(order).T if transposed else hadamard(order)
            rows = torch.matmul(small, rows.reshape(-1, order, after))
            after *= order
        return rows.reshape(shape)


@lru_cache(maxsize=8)
def rotation(kind: Kind, width: int, seed: int, *, keeps_ones: bool = False) -> Rotation:
    """The rotation asked for; a random one where no Hadamard matrix of that order is known."""
    if kind == "hadamard" and hadamard_factors(width) is None:
        kind = "random"
    return Rotation(kind, width, seed, keeps_ones)


def _uniform(width: int, generator: torch.Generator) -> Tensor:
    """Haar measure: the Q of a Gaussian matrix's QR, with R's diagonal made positive."""
    gaussian = torch.randn(width, width, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    signs: Tensor = r.diagonal().sign()
    made: Tensor = q * torch.where(signs == 0, torch.ones_like(signs), signs)
    return made


def _first_to_ones(width: int) -> Tensor:
    """The reflection that exchanges the first unit vector and 1/√d."""
    normal = torch.full((width,), -1 / math.sqrt(width), dtype=torch.float64)
    normal[0] += 1
    square = float(normal @ normal)
    identity = torch.eye(width, dtype=torch.float64)
    return identity if square == 0 else identity - 2 / square * torch.outer(normal, normal)


@dataclass(frozen=True)
class Spin:
    """A rotation along one axis of a stored tensor: of the whole axis, or of pieces of it.

    starts: where the pieces begin, each as long as the rotation is wide; None: the whole axis.
    """

    rotation: Rotation
    axis: int
    starts: tuple[int, ...] | None = None

    def turned(self, values: Tensor, offset: int = 0) -> Tensor:
        """`values` rotated. offset: the index along `axis` of the first that is given."""
        moved = values.movedim(self.axis, -1)
        if self.starts is None:
            return self.rotation.of(moved).movedim(-1, self.axis)
        width, result = self.rotation.width, moved.clone()
        for start in (start - offset for start in self.starts):
            if 0 <= start < moved.shape[-1]:
                piece = moved[..., start : start + width]
                result[..., start : start + width] = self.rotation.of(piece)
        return result.movedim(-1, self.axis)


def spun(weight: Tensor, spins: Sequence[Spin]) -> Tensor:
    """A tensor rotated along one axis or several, in float64 slabs, each number rounded once."""
    result = torch.empty_like(weight)
    whole = {spin.axis for spin in spins if spin.starts is None}
    free = [axis for axis in range(weight.dim()) if axis not in whole]
    pieces = [spin.rotation.width for spin in spins if spin.starts is not None]
    for place in _slabs(weight, free, math.lcm(1, *pieces), {s.axis for s in spins} - whole):
        slab = weight[place].double()
        for spin in spins:
            offset = place[spin.axis].start or 0
            slab = spin.turned(slab, offset)
        result[place] = slab
    return result


def _slabs(
    weight: Tensor, free: Sequence[int], piece: int, cut: set[int]
) -> Iterator[tuple[slice, ...]]:
    """Places of slabs that are whole along the axes which are not free.

    cut: free axes along which a slab is as long as several pieces.
    """
    everything = [slice(None)] * weight.dim()
    if not free:
        yield tuple(everything)
        return
    first, *rest = sorted(free, key=lambda axis: weight.shape[axis])
    outer = [slice(None)] if not rest else None
    last = rest[-1] if rest else first
    per_row = weight.numel() // max(1, weight.shape[last])
    per_row //= 1 if outer else max(1, weight.shape[first])
    step = max(1, _SLAB_ELEMENTS // max(1, per_row))
    if last in cut:
        step = max(piece, step // piece * piece)
    ones = outer or _ranges(weight.shape[first], piece if first in cut else 1)
    for one in ones:
        for other in _ranges(weight.shape[last], step):
            place = list(everything)
            if not outer:
                place[first] = one
            place[last] = other
            yield tuple(place)


def _ranges(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
