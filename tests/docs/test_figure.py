"""The README's picture of a run still shows what a run prints, figures apart."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from docs.figure import PICTURE, drawn, run
from tests.docs.running import _NUMBER

SVG = "{http://www.w3.org/2000/svg}"


def lines(svg: str) -> list[str]:
    """The picture's text, line after line, with a figure of any length as 0."""
    found: dict[float, str] = {}
    for text in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        at = float(text.attrib["y"])
        found[at] = found.get(at, "") + "".join(text.itertext())
    shown = [" ".join(_NUMBER.sub("0", found[at]).split()) for at in sorted(found)]
    return [line for line in shown if line]


def test_the_picture_shows_what_a_run_prints(tmp_path: Path) -> None:
    kept = PICTURE.read_text(encoding="utf-8")
    assert lines(kept) == lines(drawn(run(tmp_path / "demo-out")))
    assert lines(kept)[0].startswith("$ normsurgery convert") and len(lines(kept)) > 20


def test_the_picture_holds_all_of_its_text_and_loads_nothing() -> None:
    svg = PICTURE.read_text(encoding="utf-8")
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for text in root.iter(f"{SVG}text"):
        assert float(text.attrib["y"]) + 10 < height
        assert float(text.attrib["x"]) + float(text.attrib["textLength"]) < width
    assert "@font-face" not in svg and not re.search(r"https?://(?!www\.w3\.org)", svg)
