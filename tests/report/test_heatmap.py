"""The heat map: read back as pixels, since what matters is what a person sees."""

from __future__ import annotations

import sys

import pytest

from normsurgery.errors import UsageError
from normsurgery.report.heatmap import ANNOTATED, block_scores_png

np = pytest.importorskip("numpy")
image = pytest.importorskip("matplotlib.image")


def scores(blocks=12, size=3, **methods):
    chosen = methods or {"angular": lambda i: abs(i - 5), "fit": lambda i: -i}
    return [
        {"blocks": list(range(i, i + size)), **{n: make(i) for n, make in chosen.items()}}
        for i in range(blocks - size + 1)
    ]


def drawn(tmp_path, values, **options):
    path = tmp_path / "scores.png"
    block_scores_png(values, path, **options)
    return image.imread(path)[:, :, :3]


def cells(picture):
    """The heat map's part of the picture: rows and columns that are mostly coloured."""
    coloured = (picture.max(2) - picture.min(2)) > 0.15
    rows, columns = (np.flatnonzero(coloured.mean(axis) > 0.3) for axis in (1, 0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def shade(part, lines, columns, line, column):
    """The colour near a cell's corner, where no figure stands."""
    height, width = part.shape[0] / lines, part.shape[1] / columns
    return part[int((line + 0.12) * height), int((column + 0.12) * width)]


def test_dark_is_the_least_of_each_row_whatever_its_scale(tmp_path):
    part = cells(drawn(tmp_path, scores(a=lambda i: abs(i - 5) * 1e6, b=lambda i: -i * 1e-6)))
    brightness = [[shade(part, 2, 10, line, c).sum() for c in range(10)] for line in range(2)]
    assert int(np.argmin(brightness[0])) == 5 and int(np.argmax(brightness[0])) == 0
    assert int(np.argmin(brightness[1])) == 9 and int(np.argmax(brightness[1])) == 0


def test_the_dropped_window_is_framed_in_red(tmp_path):
    def red(picture):
        return int(((picture[..., 0] > 0.95) & (picture[..., 1:].max(2) < 0.05)).sum())

    assert red(drawn(tmp_path, scores())) == 0
    framed = drawn(tmp_path, scores(), dropped=[5, 6, 7])
    assert red(framed) > 500
    assert red(drawn(tmp_path, scores(), dropped=[0, 2, 4])) == 0, "no such window"
    one, two = (drawn(tmp_path, scores(size=1), dropped=went) for went in ([3], [8, 3]))
    assert red(two) > 1.9 * red(one) > 500, "blocks dropped one by one"


def test_figures_stand_in_the_cells_while_they_can_be_read(tmp_path):
    def inks(count):
        part = cells(drawn(tmp_path, scores(count, 1, angular=lambda i: i % 2)))
        middle = part[part.shape[0] // 4 : -part.shape[0] // 4]
        return len(np.unique((middle * 255).astype(int).reshape(-1, 3), axis=0))

    assert inks(ANNOTATED) > 10 > inks(ANNOTATED + 1)


@pytest.mark.parametrize("count", [1, 6, 80])
def test_the_picture_fits_a_phone(tmp_path, count):
    picture = drawn(tmp_path, scores(count, 1))
    assert picture.shape[1] <= 1200 and picture.shape[0] <= picture.shape[1]


def test_a_score_that_is_missing_stays_white(tmp_path):
    values = [*scores(6, 1, angular=lambda i: i), {"blocks": [6], "angular": None}]
    whole = drawn(tmp_path, values)
    part = cells(whole)
    assert part.shape[1] < 0.9 * cells(drawn(tmp_path, scores(7, 1, angular=lambda i: i))).shape[1]


def test_equal_scores_and_a_single_window_are_drawn(tmp_path):
    assert drawn(tmp_path, scores(1, 1)).size and drawn(tmp_path, scores(a=lambda i: 2.0)).size


def test_the_same_scores_give_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        block_scores_png(scores(), tmp_path / name, dropped=[1, 2, 3])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "a.png").read_bytes()


def test_no_scores_and_no_matplotlib(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no scores"):
        block_scores_png([], tmp_path / "x.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="needs matplotlib") as raised:
        block_scores_png(scores(), tmp_path / "x.png")
    assert raised.value.hint == "pip install normsurgery[plots]"
