"""The report of `card`: which file was made again, and from which template."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.numbers import file_size
from normsurgery.report.tables import facts, title
from normsurgery.report.verification import source_name


def written_card_report(document: dict[str, Any]) -> list[RenderableType]:
    """Source, template and size, and whether anything is new."""
    path = str(PurePath(document["output"], "README.md"))
    rows = [
        ("source", source_name(document["source"])),
        ("surgery", document["surgery"]),
        ("template", document["template"] or "the shipped one"),
        ("size", file_size(document["bytes"])),
    ]
    return [title("card", path), facts(rows), Text(), _ending(document)]


def _ending(document: dict[str, Any]) -> Text:
    if document["dry_run"]:
        return Text("nothing was written (dry run)", "bold yellow")
    return Text("written" if document["changed"] else "nothing has changed", "bold green")
