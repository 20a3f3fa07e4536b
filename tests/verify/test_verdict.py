"""The rules of the verdict, on figures made by hand."""

from __future__ import annotations

import math

import pytest

from normsurgery.verify.figures import Difference
from normsurgery.verify.load import LoadReport
from normsurgery.verify.verdict import (
    Divergence,
    GenerationFigures,
    OutputFigures,
    Parted,
    reasons_against,
)


def parted(mean: float, highest: float, *, first: float = 0.0) -> Parted:
    return Parted(
        Difference(max=highest, p999=highest, mean=mean, count=1000),
        Difference(max=first, p999=first, mean=first, count=10),
    )


def figures(error: Parted, floor: Parted | None = None, *, allowed: float = 3.0) -> OutputFigures:
    return OutputFigures(error, error, floor, std=2.0, allowed=allowed, smallest=0.01)


FLOOR = parted(0.1, 1.0, first=0.5)


@pytest.mark.parametrize(
    ("error", "ratio"),
    [
        (parted(0.1, 1.0), 1.0),
        (parted(0.3, 1.0), 3.0),  # the mean decides
        (parted(0.1, 3.5), 3.5),  # the maximum decides
        (parted(0.0, 0.0, first=3.0), 6.0),  # position 0 decides: mean 3.0 over 0.5
        (parted(0.0, 0.0), 0.0),
    ],
)
def test_ratio_is_the_worst_of_mean_and_maximum(error, ratio):
    assert figures(error, FLOOR).ratio == pytest.approx(ratio)


def test_the_floor_is_at_least_one_rounding_of_the_output():
    assert figures(parted(0.02, 0.02), parted(0.0, 0.0)).ratio == pytest.approx(2.0)


def test_float64_is_held_to_the_maximum_over_the_standard_deviation():
    assert figures(parted(0.0, 4e-9), allowed=1e-9).ratio == pytest.approx(2e-9)


def test_a_constant_output_must_stay_what_it_is():
    constant = OutputFigures(parted(0.0, 0.0), parted(0.0, 0.0), None, 0.0, 1e-9, 0.0)
    moved = OutputFigures(parted(0.0, 1e-30), parted(0.0, 1e-30), None, 0.0, 1e-9, 0.0)
    assert (constant.ratio, moved.ratio) == (0.0, math.inf)


@pytest.mark.parametrize(("error", "fails"), [(2.9, False), (3.1, True)])
def test_the_bound_is_three_floors(error, fails):
    reasons = reasons_against(
        "exact", LoadReport(), {"logits": figures(parted(0.0, error), FLOOR)}, None
    )
    assert bool(reasons) == fails


@pytest.mark.parametrize(("margin", "fails"), [(1.9, False), (2.1, True)])
def test_text_may_differ_only_where_the_reference_cannot_tell(margin, fails):
    noise = figures(parted(0.0, 0.0), FLOOR).noise
    assert noise == 2.0
    text = GenerationFigures(4, 8, (Divergence(row=2, step=3, margin=margin, noise=noise),))
    reasons = reasons_against("exact", LoadReport(), {}, text)
    assert [reason.split(",")[0] for reason in reasons] == (
        ["generation: row 2 differs at token 3"] if fails else []
    )
    assert not reasons_against("fitted", LoadReport(), {}, text)


def test_a_long_load_report_is_one_line():
    report = LoadReport(missing=tuple("abcde"), errors=("bad",))
    assert report.sentence() == "missing: a, b, c and 2 more; errors: bad"
    assert report.beyond(LoadReport(missing=("a", "b"))).missing == ("c", "d", "e")
