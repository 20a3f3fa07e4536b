"""Losses, scales and kurtosis: what stands where in the Figure."""

from __future__ import annotations

import math

import pytest

from normsurgery.plots import pictures
from normsurgery.plots.losses import DOMAINS
from normsurgery.plots.scales import by_site
from normsurgery.plots.words import listed, shortened
from tests.plots import documents
from tests.plots.test_pictures import drawn

pytest.importorskip("matplotlib")


def only(document):
    (picture,) = pictures(document)
    return picture, drawn(picture)


def bars(axes):
    """Model → the lengths of its bars."""
    return {group.get_label(): [patch.get_width() for patch in group] for group in axes.containers}


def test_a_bar_for_each_quantile_of_each_model_with_its_figure():
    shifted = {key: value + 1 for key, value in documents.FIGURES.items()}
    _, figure = only(documents.losses("prose", original=documents.FIGURES, result=shifted))
    (axes,) = figure.axes
    assert bars(axes) == {
        "original": [3.0, 2.5, 11.0, 14.0], "result": [4.0, 3.5, 12.0, 15.0],
    }  # fmt: skip
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "mean", "median", "p99.9", "maximum",
    ]  # fmt: skip
    assert [text.get_text() for text in axes.texts][:4] == ["3.00", "2.50", "11.00", "14.00"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["original", "result"]


def test_an_infinite_loss_reaches_as_far_as_bars_do_and_a_missing_one_is_said():
    odd = {"mean": math.inf, "median": None, "p999": math.nan, "max": 20.0}
    _, figure = only(documents.losses("prose", original=documents.FIGURES, result=odd))
    (axes,) = figure.axes
    infinite, missing, undefined, largest = bars(axes)["result"]
    assert infinite == pytest.approx(largest) and (missing, undefined) == (0.0, 0.0)
    said = [text.get_text() for text in axes.texts][4:]
    assert said == ["∞", "not measured", "not measured", "20.00"]
    assert axes.get_xlim()[1] > 20.0


def test_domains_have_a_panel_each_and_long_names_are_shortened():
    long = "a-very-long-name-of-a-file-of-held-out-text.jsonl"
    picture, figure = only(documents.losses(long, "$x_1$", "third", "fourth"))
    assert len(figure.axes) == DOMAINS and "1 more" in picture.caption
    first, second, _ = (axes.get_title(loc="left") for axes in figure.axes)
    assert len(first) <= 40 and "…" in first and second == "$x_1$"


def test_scales_stand_at_their_blocks_and_position_0_apart():
    picture, figure = only(documents.statistics())
    ordinary, first = figure.axes
    found = {line.get_label(): line for line in ordinary.get_lines()}
    assert list(found) == ["input_layernorm:qk", "post_atte…_layernorm", "norm"]
    assert found["input_layernorm:qk"].get_xdata().tolist() == [0, 1, 2]
    assert found["input_layernorm:qk"].get_ydata().tolist() == [0.5, 1.5, 2.5]
    assert found["norm"].get_xdata().tolist() == [3], "after the last block"
    assert [line.get_ydata()[0] for line in first.get_lines()] == [20.0, 40.0, 140.0]
    assert len({(line.get_color(), line.get_marker()) for line in ordinary.get_lines()}) == 3
    assert ordinary.get_yscale() == "log" and ordinary.get_ylim() == first.get_ylim()
    assert "position 0" in picture.caption and "end-of-text" not in picture.caption


def test_sites_of_blocks_share_a_line():
    rows = documents.statistics(60)["statistics"]
    assert {site: len(of) for site, of in by_site(rows).items()} == {
        "input_layernorm:qk": 60, "post_attention_layernorm": 60, "norm": 1,
    }  # fmt: skip


def test_kurtosis_before_and_after_over_blocks_with_what_is_normal():
    document = documents.kurtosis()
    del document["kurtosis"]["blocks"][1]["after"]
    _, figure = only(document)
    ordinary, first = figure.axes
    before, after, normal = ordinary.get_lines()
    assert before.get_ydata().tolist() == [30.0, 31.0, 32.0]
    assert math.isnan(after.get_ydata()[1]) and after.get_ydata()[2] == pytest.approx(3.1)
    assert list(normal.get_ydata()) == [3.0, 3.0] and first.get_yscale() == "log"
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Kurtosis, every position but the first", "Kurtosis, position 0",
    ]  # fmt: skip


def test_position_0_has_no_panel_where_it_was_not_measured():
    document = documents.kurtosis()
    for row in document["kurtosis"]["blocks"]:
        row["position_0"] = {"before": None, "after": None}
    _, figure = only(document)
    assert len(figure.axes) == 1


def test_words():
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "", "a", "a and b", "a, b and c",
    ]  # fmt: skip
    assert shortened("abcdefgh", 8) == "abcdefgh" and shortened("abcdefghi", 8) == "abc…fghi"
