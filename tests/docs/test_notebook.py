"""The notebook of the tutorials: valid, run from its cells, and stored as it ran."""

from __future__ import annotations

import json
import re
from typing import Any

import nbformat
import pytest

from tests.docs.notebook import code_cells, execute
from tests.docs.pages import DOCS

NOTEBOOK = DOCS / "tutorials" / "interpretability.ipynb"
LIMIT = 500_000  # bytes: it is opened in browsers
_TITLE = re.compile(r"<h3>([^<]+)<")
_FIGURE = re.compile(r"\d[\d,.]*")


def kinds(outputs: list[Any]) -> list[list[str]]:
    """What a reader sees of a cell: printed text, a table, a picture, a value."""
    return [sorted(one.get("data", ["printed"])) for one in outputs]


def html_of(cells: list[list[Any]]) -> list[str]:
    data = [one.get("data", {}) for outputs in cells for one in outputs]
    return ["".join(one["text/html"]) for one in data if "text/html" in one]


def titles(html: str) -> list[str]:
    """The headings of a report, figures apart."""
    return [_FIGURE.sub("0", title) for title in _TITLE.findall(html)]


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return found


def test_it_is_valid_and_small_and_has_run_from_top_to_bottom(stored: dict[str, Any]) -> None:
    nbformat.validate(nbformat.from_dict(stored))
    assert stored["nbformat"] == 4
    assert NOTEBOOK.stat().st_size < LIMIT
    cells = code_cells(stored)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any("/work" in json.dumps(cell) or "/tmp" in json.dumps(cell) for cell in cells)


def test_its_cells_run_and_show_what_is_stored(
    stored: dict[str, Any], little_text: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(NOTEBOOK.parent)
    now = execute(stored, {"TOKENS": 6144, "MEASURED": 2048})
    cells = [cell["outputs"] for cell in code_cells(stored)]
    assert [kinds(outputs) for outputs in now] == [kinds(outputs) for outputs in cells]
    tables, before = html_of(now), html_of(cells)
    assert len(tables) >= 3 and all("<table" in html for html in tables)
    for html, old in zip(tables, before, strict=True):
        assert titles(html) == titles(old)
    assert any(map(titles, tables))
