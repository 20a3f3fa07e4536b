"""The training curve: the marks are at the steps of the document."""

from __future__ import annotations

import math

import pytest

from normsurgery.plots import pictures
from normsurgery.plots.training import WINDOWS, removal_marks, windows
from tests.plots import documents
from tests.plots.test_pictures import drawn

pytest.importorskip("matplotlib")


def lines(document):
    (picture,) = pictures(document)
    figure = drawn(picture)
    return {line.get_gid() or "": line for axes in figure.axes for line in axes.get_lines()}, figure


def test_marks_stand_at_the_steps_of_the_document():
    found, figure = lines(documents.training())
    marks = {
        gid.removeprefix("mark:"): list(line.get_xdata())
        for gid, line in found.items()
        if "mark:" in gid
    }
    assert marks == {"MLP": [2, 2], "final": [5], "end of text": [8], "position 0": [9]}
    _, below = figure.axes
    assert [text.get_text() for text in below.get_yticklabels()] == list(marks)
    assert [line.get_ydata()[0] for gid, line in found.items() if "mark:" in gid] == [
        0, 1, 2, 3,
    ]  # fmt: skip


def test_both_curves_are_of_cross_entropy_on_one_axis_of_steps():
    document = documents.training()
    found, figure = lines(document)
    for label, curve in (
        ("removal", document["training"]["ce"]),
        ("control", document["control"]["loss"]),
    ):
        assert found[label].get_xdata().tolist() == [step for step, _ in curve]
        assert found[label].get_ydata().tolist() == [value for _, value in curve]
    assert found["removal"].get_linestyle() != found["control"].get_linestyle()
    upper, below = figure.axes
    assert upper.get_ylabel() == "cross-entropy (nats)" and below.get_xlabel() == "step"
    assert upper.get_xlim() == below.get_xlim()


def test_a_cross_where_it_diverged_and_a_line_where_it_went_back_to():
    document = documents.training()
    found, figure = lines(document)
    assert list(found["rollback"].get_xdata()) == [7]
    dotted = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == ":"]
    assert [list(line.get_xdata()) for line in dotted] == [[4, 4]]
    del document["training"]["rollbacks"]
    assert "rollback" not in lines(document)[0]


def test_a_run_without_removals_is_a_curve_alone():
    document = {"training": {"loss": [[1, 4.0], [2, math.inf], [3, 3.0]]}}
    found, figure = lines(document)
    (axes,) = figure.axes
    assert axes.get_ylabel() == "training loss (nats)" and set(found) == {"training"}
    values = found["training"].get_ydata().tolist()
    assert values[::2] == [4.0, 3.0] and math.isnan(values[1])


def test_a_long_run_is_means_in_a_band():
    points = [[step, step % 10] for step in range(1, 1001)]
    parts = windows(points)
    assert len(parts) == WINDOWS and parts[0] == (5.5, 0, 4.5, 9)
    assert windows([[1, math.nan], *points])[0][2] < 5, "what is not finite counts for nothing"
    found, figure = lines({"training": {"loss": points}})
    assert len(found["training"].get_xdata()) == WINDOWS
    assert len(figure.axes[0].collections) == 1


def test_an_event_of_an_unknown_path_is_still_marked():
    document = {"events": [{"step": 3, "action": "remove", "paths": ["odd"]}]}
    assert removal_marks(document) == {"norms": [3]}
