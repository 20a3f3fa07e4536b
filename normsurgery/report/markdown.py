"""Text from outside as cells of a Markdown table, where it can start nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONG = 12  # rows of a table that a card shows without being asked


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell(text).replace("|", "\\|") for text in cells) + " |"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], what: str = "") -> list[str]:
    """The lines of a table; behind a click with the words of `what` where it is long."""
    lines = [row(columns), row(["---"] * len(columns)), *(row(cells) for cells in rows)]
    if len(rows) <= LONG or not what:
        return lines
    summary = f"<summary>{cell(what)} ({len(rows)})</summary>"
    return ["<details>", summary, "", *lines, "", "</details>"]


def cell(text: str) -> str:
    """One line, in which a name out of the checkpoint cannot start HTML."""
    return " ".join(text.split()).replace("<", "&lt;")


def literal(text: str) -> str:
    """A model's own words on one line: no link, picture, emphasis, code or HTML comes of them."""
    marked = re.sub(r"([\\`*_\[\]()!#~$])", r"\\\1", " ".join(text.split()))
    unlinked = marked.replace("://", "\\://").replace("www.", "www\\.")
    return unlinked.replace("&", "&amp;").replace("<", "&lt;")
