"""Documents become pictures: which ones, what they say, and the same bytes each time."""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as xml

import pytest

from normsurgery import UsageError
from normsurgery.plots import Picture, pictures, write_pictures
from normsurgery.plots.picture import WIDTH, styled
from tests.plots import documents
from tests.report import documents as reported

pytest.importorskip("matplotlib")


def drawn(picture: Picture):
    """Its Figure."""
    with styled():
        return picture.draw()


@pytest.mark.parametrize(
    "document, names",
    [
        (documents.everything(), ["block-scores", "kurtosis", "training", "scales", "losses"]),
        ({"scores": documents.scores()}, ["block-scores"]),
        (documents.kurtosis(), ["kurtosis"]),
        (documents.statistics(), ["scales"]),
        (documents.losses("prose"), ["losses"]),
        ({"training": {"loss": [[1, 2.0]]}}, ["training"]),
    ],
)
def test_each_kind_of_figure_has_its_picture(document, names):
    found = pictures(document)
    assert [picture.name for picture in found] == names
    for picture in found:
        assert picture.title and picture.caption.endswith(".") and "\n" not in picture.caption


@pytest.mark.parametrize(
    "document",
    [
        {},
        reported.convert_document(),
        {"scores": [], "losses": {}, "statistics": [], "kurtosis": None, "training": None},
        {"scores": [{"blocks": [0], "fit": None}], "kurtosis": {"measured": False, "blocks": []}},
        {"statistics": [{"path": "a", "kind": "mlp", "sigma": None, "first": None, "end": None}]},
        {"losses": {"prose": {"source": {"source": "prose"}}}, "training": {"loss": []}},
        {"training": {"loss": [[1, math.nan]]}, "events": []},
    ],
)
def test_nothing_is_drawn_of_a_document_without_figures(document, tmp_path):
    assert pictures(document) == () and write_pictures(document, tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_the_same_document_gives_the_same_bytes_whatever_a_person_prefers(tmp_path, monkeypatch):
    import matplotlib

    document = documents.losses("prose")
    names = write_pictures(document, tmp_path / "one")
    assert names == ("plots/losses.png", "plots/losses.svg")
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    monkeypatch.setitem(matplotlib.rcParams, "savefig.facecolor", "black")
    assert write_pictures(document, tmp_path / "two") == names
    for name in names:
        found = (tmp_path / "one" / name).read_bytes()
        assert found == (tmp_path / "two" / name).read_bytes()
        assert str(tmp_path).encode() not in found and b"<dc:date>" not in found
    assert matplotlib.rcParams["font.size"] == 30.0, "the person's settings are theirs again"


def test_every_picture_is_a_png_and_an_svg_that_a_phone_can_show():
    for picture in pictures(documents.everything()):
        figure = drawn(picture)
        figure.canvas.draw()
        assert figure.get_figwidth() == WIDTH <= 8.0
        letters = [text for axes in figure.axes for text in axes.get_xticklabels()]
        assert all(text.get_fontsize() >= 11 for text in letters)
        assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    picture = pictures(documents.kurtosis())[0]
    root = xml.fromstring(picture.svg())
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and picture.title in picture.svg()
    png = picture.png()
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") == 880


@pytest.mark.parametrize("count", [1, 60])
def test_axes_name_their_units_and_stay_readable(count):
    document = {**documents.kurtosis(count), **documents.statistics(count)}
    for picture in pictures(document):
        bottom = drawn(picture).axes[-1]
        assert bottom.get_xlabel() == "block"
        assert 1 <= len(bottom.get_xticks()) <= 8
    (picture,) = pictures(documents.losses("prose"))
    assert drawn(picture).axes[-1].get_xlabel() == "loss (nats per token)"


def test_without_matplotlib_there_is_a_hint_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    document = documents.losses("prose")
    (picture,) = pictures(document)
    for act in (picture.png, picture.svg, lambda: write_pictures(document, tmp_path)):
        with pytest.raises(UsageError, match="need matplotlib") as raised:
            act()
        assert raised.value.hint == "pip install 'normsurgery[plots]'"
    assert list(tmp_path.iterdir()) == []
