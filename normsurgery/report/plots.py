"""The pictures of a document that were drawn, in the card and in the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from normsurgery.report.markdown import literal

Document = Mapping[str, Any]


def plots_markdown(document: Document) -> str:
    """The card's section with the pictures; empty where none was drawn."""
    shown = document.get("plots") or ()
    if not shown:
        return ""
    parts = [
        f"**{literal(one['title'])}**\n\n![{literal(one['caption'])}](plots/{one['name']}.png)"
        for one in shown
    ]
    return "\n\n## In pictures\n\n" + "\n\n".join(parts)


def plots_facts(document: Document) -> Iterator[tuple[str, str]]:
    """A line for the head of the report, where pictures were asked for."""
    if "plots" in document:
        names = ", ".join(f"plots/{one['name']}.png" for one in document["plots"])
        yield "pictures", names or "none: nothing was measured that can be drawn"
