"""Every command and every Python block of README.md and docs/ does what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.conftest import Desk
from tests.docs.pages import ROOT, blocks_of, pages
from tests.docs.running import Made, Page

# Words of a page's commands and what is run for them: fewer tokens and steps, since the models are
# tiny and time is short.
PLACEHOLDERS = {
    "docs/tutorials/depth.md": {
        "65536": "1024", "16384": "1024", "200000": "4096", "128": "64", "40": "4",
    },
    "docs/tutorials/interpretability.md": {"300000": "6144", "50000": "2048"},
    "docs/tutorials/serving.md": {"65536": "1024", "256": "64"},
}  # fmt: skip


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_shows_runs(path: Path, desk: Desk, made: Made) -> None:
    text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
    desk(text)
    page = Page(name, made, PLACEHOLDERS.get(name))
    for block in blocks_of(text):
        page.run(block)
