"""Every command and every Python block of README.md and docs/ does what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.conftest import Desk
from tests.docs.pages import ROOT, blocks_of, pages
from tests.docs.running import Made, Page


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_shows_runs(path: Path, desk: Desk, made: Made) -> None:
    text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
    desk(text)
    page = Page(name, made)
    for block in blocks_of(text):
        page.run(block)
