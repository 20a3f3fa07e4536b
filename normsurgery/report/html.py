"""A report as a piece of HTML, for notebooks: the terminal's, in its colours."""

from __future__ import annotations

import io
from typing import Any

from normsurgery.report import render

WIDTH = 100  # columns: what a notebook's cell shows without scrolling
_PIECE = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:1.25;'
    "font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace\">{code}</pre>"
)


def html_report(document: dict[str, Any]) -> str:
    """The report of a result's document as one element; every text in it is escaped."""
    from rich.console import Console

    console = Console(
        file=io.StringIO(), record=True, width=WIDTH, markup=False, emoji=False, highlight=False,
        force_terminal=True, color_system="standard", legacy_windows=False, force_jupyter=False,
    )  # fmt: skip
    for part in render(document):
        console.print(part, soft_wrap=bool(getattr(part, "no_wrap", False)))
    return console.export_html(code_format=_PIECE, inline_styles=True)
