"""Least squares from moments: Gram and cross matrices added up batch by batch, and ridge solves.

A regression Y ≈ X Wᵀ needs of its rows only XᵀX, XᵀY and ΣY², so text of any length takes the
memory of one matrix. Two sets of moments are kept, of the rows that are fitted and of rows that
are held out: the error on those follows from their moments alone, and chooses the ridge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normsurgery.errors import SurgeryError

RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)  # × the mean of the Gram matrix's diagonal
NOISE = 1e-9  # of a relative squared error: less is rounding
_PANEL = 256  # columns of a Gram matrix that are computed at once


class Moments:
    """Σ w x xᵀ, Σ w x yᵀ, Σ w y² and Σ w over rows; products in the rows' dtype, sums in float64.

    gram: [p, p]. cross: [p, o]. square, weight: numbers (0-dimensional). rows: how many were added.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        sums = {"dtype": torch.float64, "device": device}
        self.gram = torch.zeros(inputs, inputs, **sums)  # type: ignore[call-overload]
        self.cross = torch.zeros(inputs, outputs, **sums)  # type: ignore[call-overload]
        self.square, self.weight, self.rows = (
            torch.zeros((), dtype=torch.float64, device=device) for _ in range(3)
        )

    def add(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Add rows. x: [n, p]; y: [n, o]; weight: [n], at least 0.

        Only panels on and above the diagonal of the Gram matrix are multiplied out.
        """
        if not len(x):
            return
        weighted = x * weight[:, None].to(x.dtype)
        width = x.shape[1]
        for start in range(0, width, _PANEL):
            stop = min(width, start + _PANEL)
            self.gram[start:stop, start:] += weighted[:, start:stop].T @ x[:, start:]
        self.cross += weighted.T @ y.to(x.dtype)
        self.square += (y.double().square().sum(1) * weight.double()).sum()
        self.weight += weight.double().sum()
        self.rows += (weight > 0).sum()

    def reduce(self, add: Callable[[Tensor], Tensor]) -> None:
        """Complete the sums, once, after the last rows. add: the sum of all processes' tensors."""
        upper = self.gram.triu()
        self.gram = add(upper + upper.T - torch.diag(upper.diagonal()))
        self.cross, self.square = add(self.cross), add(self.square)
        self.weight, self.rows = add(self.weight), add(self.rows)

    def chosen(self, columns: Tensor) -> Moments:
        """The moments of some of the regressors. columns: [k], indices."""
        some = Moments(0, 0, self.gram.device)
        some.gram, some.cross = self.gram[columns][:, columns], self.cross[columns]
        some.square, some.weight, some.rows = self.square, self.weight, self.rows
        return some

    def given(self, present: Tensor, columns: Tensor) -> Moments:
        """The moments of some regressors and of what is left when the others stay as at present."""
        fixed = present.clone()
        fixed[:, columns] = 0.0
        some = self.chosen(columns)
        some.cross = some.cross - (self.gram @ fixed.T)[columns]
        some.square = self.square * self.error(fixed)
        return some

    def error(self, weight: Tensor) -> float:
        """Σ w |y − W x|² / Σ w |y|² of these rows. weight: [o, p], float64."""
        explained = 2 * (weight * self.cross.T).sum() - ((weight @ self.gram) * weight).sum()
        return float((self.square - explained) / self.square.clamp_min(1e-300))


@dataclass(frozen=True)
class Solution:
    """A ridge regression. weight: [o, p], float64. ridge: None where the present weight stays.

    before, after: relative squared errors on the held-out rows.
    """

    weight: Tensor
    ridge: float | None
    before: float
    after: float

    @property
    def accepted(self) -> bool:
        """Whether some ridge lowered the error on the held-out rows."""
        return self.ridge is not None


@dataclass
class Regression:
    """The moments of rows that are fitted, and of rows that are held out."""

    fitted: Moments
    held: Moments

    @staticmethod
    def empty(inputs: int, outputs: int, device: torch.device | str = "cpu") -> Regression:
        """Of p inputs and o outputs, before any rows."""
        return Regression(Moments(inputs, outputs, device), Moments(inputs, outputs, device))

    def add(self, x: Tensor, y: Tensor, weight: Tensor, held: Tensor) -> None:
        """Add rows. x: [n, p]; y: [n, o]; weight: [n], 0 leaves a row out; held: [n], bool."""
        if bool(held.all()):
            self.held.add(x, y, weight)
            return
        # rows without weight add nothing: cheaper than a copy of all the others
        self.fitted.add(x, y, weight * ~held)
        if bool(held.any()):
            self.held.add(x[held], y[held], weight[held])

    def chosen(self, columns: Tensor) -> Regression:
        """The same rows with some of the regressors only."""
        return Regression(self.fitted.chosen(columns), self.held.chosen(columns))

    def given(self, present: Tensor, columns: Tensor) -> Regression:
        """The regression of what is left on some of the regressors, the others as at present."""
        fitted, held = self.fitted.given(present, columns), self.held.given(present, columns)
        return Regression(fitted, held)

    def share(self, of: Regression) -> float:
        """What is to be explained on held-out rows, in units of another regression's."""
        return float(self.held.square / of.held.square.clamp_min(1e-300))

    def solve(self, present: Tensor, ridges: Sequence[float] = RIDGES) -> Solution:
        """W = argmin Σ w |y − W x|² + s |W − W₀|², s chosen where the held-out error is smallest.

        present: W₀ [o, p]. ridges: candidates for s, × the mean of the Gram matrix's diagonal.
        """
        present = present.double().to(self.fitted.gram.device)
        before = self.held.error(present)
        best = Solution(present, None, before, before)
        residual = self.fitted.cross - self.fitted.gram @ present.T
        tried: dict[int, float] = {}
        place = len(ridges) // 2
        while place in range(len(ridges)) and place not in tried:
            factor = cholesky(self.fitted.gram, ridges[place])
            weight = present + torch.cholesky_solve(residual, factor).T
            tried[place] = self.held.error(weight)
            if tried[place] < best.after - NOISE:
                best = Solution(weight, ridges[place], before, tried[place])
            place = _next(tried, len(ridges))
        return best


def _next(tried: Mapping[int, float], count: int) -> int:
    """Where to look for the least of a row that falls and then rises; -1 where it is found.

    The held-out error is such a row: a small ridge fits noise, a large one nothing.
    """
    least = min(tried, key=tried.__getitem__)
    fresh = [place for place in (least + 1, least - 1) if 0 <= place < count and place not in tried]
    return fresh[0] if fresh else -1


def ridge_weight(moments: Moments, present: Tensor, ridge: float) -> Tensor:
    """W₀ + (XᵀY − XᵀX W₀ᵀ)ᵀ (XᵀX + s I)⁻¹ with s = ridge · mean diag(XᵀX): [o, p], float64."""
    residual = moments.cross - moments.gram @ present.T
    change: Tensor = torch.cholesky_solve(residual, cholesky(moments.gram, ridge))
    return present + change.T


def cholesky(gram: Tensor, ridge: float) -> Tensor:
    """The factor of XᵀX + s I, s = ridge · mean diag(XᵀX).

    Raises SurgeryError where the matrix is not positive definite even so: there are nonfinite rows.
    """
    scale = float(gram.diagonal().mean())
    shifted = gram.clone()
    shifted.diagonal().add_(max(ridge * scale, 1e-300))
    factor, info = torch.linalg.cholesky_ex(shifted)
    if int(info):
        # exactly dependent regressors and next to no ridge: the smallest one that rounding allows
        shifted.diagonal().add_(1e-10 * scale)
        factor, info = torch.linalg.cholesky_ex(shifted)
    if int(info) or not bool(torch.isfinite(factor).all()):
        raise SurgeryError(
            "the statistics of the calibration text are not finite",
            "check the checkpoint: a forward over this text overflows",
        )
    result: Tensor = factor
    return result
