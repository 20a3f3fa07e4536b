"""What `report` tells: where the page lies, and whether the files are what it describes."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.numbers import duration, figure, file_size
from normsurgery.report.tables import facts, section, title
from normsurgery.report.text import printable
from normsurgery.report.verification import source_name

_RECORDED = ("matches", "not looked at")


def report_report(document: dict[str, Any]) -> list[RenderableType]:
    """Facts of the page; files that changed, by name; the remarks; the page, last."""
    pictures = ", ".join(document["pictures"]) or "none"
    parts: list[RenderableType] = [
        title("report", f"{document['result']} → {document['output']}"),
        facts(
            [
                ("surgery", f"{document['surgery']} of {source_name(document['source'])}"),
                ("verified", document["verdict"]),
                ("pictures", pictures),
                ("samples", figure(document["samples"])),
                ("size", file_size(document["bytes"])),
            ]
        ),
    ]
    gone = [
        (one["name"], one["now"])
        for one in (*document["files"], *document["source_files"])
        if one["now"] not in _RECORDED
    ]
    if gone:
        parts += section("The page describes files that are no longer there", facts(gone))
    if document["notes"]:
        parts += section("Remarks", facts([("·", note) for note in document["notes"]]))
    line = Text.assemble(
        (
            "changed files" if gone else "every file as recorded",
            "bold red" if gone else "bold green",
        ),
        "  ",
        printable(duration(document["seconds"])),
    )
    return [*parts, Text(), line]
