"""A report as a piece of HTML, for notebooks: what the terminal shows, in tables of the browser."""

from __future__ import annotations

from typing import Any


def html_report(document: dict[str, Any]) -> str:
    """The report of a result's document as one element; every text in it is escaped."""
    from normsurgery.report import render
    from normsurgery.report.page.render import render_piece
    from normsurgery.report.page.shapes import blocks_of

    return render_piece(blocks_of(render(document)))
