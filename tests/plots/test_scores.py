"""The heat map of scores, read back from the Figure."""

from __future__ import annotations

import math

import pytest

from normsurgery.plots import pictures
from normsurgery.plots.scores import ANNOTATED, drawn_scores
from tests.plots.documents import scores
from tests.plots.test_pictures import drawn

np = pytest.importorskip("numpy")
pytest.importorskip("matplotlib")


def heat_map(values, dropped=()):
    (picture,) = pictures({"scores": values, "blocks": {"dropped": list(dropped)}})
    (axes,) = drawn(picture).axes
    return axes, picture


def shares(values):
    (image,) = heat_map(values)[0].get_images()
    return image.get_array()


def framed(axes):
    return sorted(patch.get_x() + 0.5 for patch in axes.patches)


def test_dark_is_the_least_of_each_row_whatever_its_scale():
    found = shares(scores(a=lambda i: abs(i - 5) * 1e6, b=lambda i: -i * 1e-6))
    assert found.min(axis=1).tolist() == [0.0, 0.0] and found.max(axis=1).tolist() == [1.0, 1.0]
    assert found.argmin(axis=1).tolist() == [5, 9] and found.argmax(axis=1).tolist() == [0, 0]
    axes, _ = heat_map(scores())
    (image,) = axes.get_images()
    dark, light = image.to_rgba(0.0, norm=True), image.to_rgba(1.0, norm=True)
    assert sum(dark[:3]) < 1.0 < 1.5 < sum(light[:3])


@pytest.mark.parametrize(
    "size, dropped, columns",
    [(3, [5, 6, 7], [5]), (3, [0, 2, 4], []), (1, [8, 3], [3, 8]), (3, [], [])],
)
def test_what_was_dropped_is_framed_and_said(size, dropped, columns):
    axes, picture = heat_map(scores(size=size), dropped)
    assert framed(axes) == columns
    assert ("framed" in picture.caption) is ("framed" in axes.get_xlabel()) is bool(columns)
    if dropped and not columns:
        assert "0, 2, 4" in picture.caption


def test_a_narrow_column_has_a_mark_below_it():
    axes, _ = heat_map(scores(80, 1), [40])
    assert [line.get_xdata().tolist() for line in axes.get_lines()] == [[40]]
    assert heat_map(scores(12, 1), [4])[0].get_lines() == []


def test_figures_stand_in_the_cells_while_they_can_be_read():
    def said(count):
        axes, _ = heat_map(scores(count, 1, angular=lambda i: 10.0**-i))
        return [text.get_text() for text in axes.texts]

    assert said(3) == ["1", "0.1", "0.01"]
    assert len(said(ANNOTATED)) == ANNOTATED and said(ANNOTATED + 1) == []


def test_a_score_that_is_missing_or_infinite_stays_white():
    values = scores(4, 1, angular=lambda i: [1.0, None, math.inf, 3.0][i], fit=lambda i: i)
    assert shares(values).mask[0].tolist() == [False, True, True, False]


def test_of_several_rounds_and_of_a_trial_the_windows_are_drawn():
    rounds = [{"round": n, **row} for n in (0, 1) for row in scores(6 - n, 1, fit=lambda i: i)]
    assert drawn_scores(rounds) == rounds[6:]
    windows = scores(6, 2, angular=lambda i: i)
    tried = [*windows, *scores(6, 1, loss=lambda i: i), {"blocks": [2, 4], "trial": 1.0}]
    assert drawn_scores(tried) == windows
    assert drawn_scores([{"blocks": [2, 4], "angular": 1.0}]) == []
