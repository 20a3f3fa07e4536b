"""Moments and ridge solves against the rows themselves."""

from __future__ import annotations

import pytest
import torch

from normsurgery.calibrate.fit.gram import Moments, Regression, ridge_weight
from normsurgery.errors import SurgeryError


def rows(
    count: int, inputs: int, outputs: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=generator, dtype=torch.float64)
    y = torch.randn(count, outputs, generator=generator, dtype=torch.float64)
    return x, y, torch.rand(count, generator=generator, dtype=torch.float64) + 0.1


def moments(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> Moments:
    found = Moments(x.shape[1], y.shape[1])
    for start in range(0, len(x), 100):
        piece = slice(start, start + 100)
        found.add(x[piece], y[piece], weight[piece])
    found.reduce(lambda value: value)
    return found


def test_streamed_sums_are_those_of_all_rows() -> None:
    x, y, weight = rows(350, 300, 5)  # wider than a panel
    found = moments(x, y, weight)
    assert torch.allclose(found.gram, (x * weight[:, None]).T @ x, atol=1e-10)
    assert torch.allclose(found.cross, (x * weight[:, None]).T @ y, atol=1e-10)
    assert float(found.square) == pytest.approx(float((weight[:, None] * y**2).sum()))
    assert int(found.rows) == 350


def test_ridge_meets_its_normal_equations() -> None:
    x, y, weight = rows(200, 30, 4)
    present = torch.randn(4, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sums = moments(x, y, weight)
    solved = ridge_weight(sums, present, 0.1)
    scale = 0.1 * sums.gram.diagonal().mean()
    slope = (solved @ sums.gram - sums.cross.T) + scale * (solved - present)
    assert float(slope.abs().max()) < 1e-9


def test_error_is_that_of_the_rows() -> None:
    x, y, weight = rows(80, 10, 3)
    matrix = torch.randn(3, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    direct = (weight[:, None] * (y - x @ matrix.T) ** 2).sum() / (weight[:, None] * y**2).sum()
    assert moments(x, y, weight).error(matrix) == pytest.approx(float(direct), rel=1e-12)


def test_what_others_leave_is_fitted_as_if_they_were_subtracted() -> None:
    x, y, weight = rows(150, 12, 3)
    present = torch.randn(3, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    columns = torch.arange(7, 12)
    part = moments(x, y, weight).given(present, columns)
    direct = moments(x[:, 7:], y - x[:, :7] @ present[:, :7].T, weight)
    assert torch.allclose(part.cross, direct.cross, atol=1e-10)
    assert float(part.square) == pytest.approx(float(direct.square))


def regression(x: torch.Tensor, y: torch.Tensor, held: torch.Tensor) -> Regression:
    found = Regression.empty(x.shape[1], y.shape[1])
    found.add(x, y, torch.ones(len(x), dtype=x.dtype), held)
    for sums in (found.fitted, found.held):
        sums.reduce(lambda value: value)
    return found


def test_fit_that_is_worse_on_held_out_rows_is_not_accepted() -> None:
    x, y, _ = rows(200, 10, 3)
    held = torch.arange(200) % 8 == 0
    present = torch.randn(3, 10, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    sabotaged = torch.where(held[:, None], x @ present.T, y * 9)
    solution = regression(x, sabotaged, held).solve(present)
    assert not solution.accepted
    assert torch.equal(solution.weight, present)
    honest = regression(x, y, held).solve(present)
    assert honest.accepted
    assert honest.after < honest.before


def test_rows_of_no_weight_do_not_count() -> None:
    x, y, _ = rows(40, 5, 2)
    weight = (torch.arange(40) % 2).double()
    found = Regression.empty(5, 2)
    found.add(x, y, weight, torch.zeros(40, dtype=torch.bool))
    assert int(found.fitted.rows) == 20
    assert int(found.held.rows) == 0


def test_dependent_regressors_are_solved() -> None:
    x, y, weight = rows(60, 6, 2)
    x[:, 5] = x[:, 4]
    solved = ridge_weight(moments(x, y, weight), torch.zeros(2, 6, dtype=torch.float64), 0.0)
    assert torch.isfinite(solved).all()


def test_overflow_is_an_error() -> None:
    x, y, weight = rows(60, 6, 2)
    x[3, 2] = float("inf")
    with pytest.raises(SurgeryError, match="not finite"):
        ridge_weight(moments(x, y, weight), torch.zeros(2, 6, dtype=torch.float64), 0.1)
