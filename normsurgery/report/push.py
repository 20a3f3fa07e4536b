"""The report of `push`: what went where, what stayed, and the link."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.numbers import duration, file_size
from normsurgery.report.tables import code, facts, plain_table, section, title
from normsurgery.report.text import printable
from normsurgery.report.verification import source_name


def push_report(document: dict[str, Any]) -> list[RenderableType]:
    """Files with their sizes, files that stayed with the reason, and, last, the link."""
    where = f"{document['output']} → {document['repository']}"
    files = [[one["name"], file_size(one["bytes"])] for one in document["files"]]
    total = ["", file_size(document["bytes"])]
    parts: list[RenderableType] = [
        title("push", where),
        facts(_facts(document)),
        *section("Files", plain_table(["name", "size"], [*files, total], right=[1], whole=[1])),
    ]
    if document["left"]:
        parts += section("Not uploaded", facts((x["name"], x["why"]) for x in document["left"]))
    if document["removed"]:
        gone = [("·", f"{name} (still in the history)") for name in document["removed"]]
        parts += section("Removed: weights of an earlier upload", facts(gone))
    return [*parts, Text(), *_ending(document)]


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    verdict, licence = document["verdict"], document["licence"]
    rows = [("source", source_name(document["source"]))] if document["source"] else []
    rows += [
        ("verified", verdict if verdict == "pass" else f"{verdict}: the card says so"),
        ("licence", licence["name"] or licence["id"] or "the card names none"),
        ("revision", document["revision"]),
        ("visible", "to you and your organization" if document["private"] else "to everyone"),
    ]
    return rows


def _ending(document: dict[str, Any]) -> list[RenderableType]:
    if document["dry_run"]:
        return [Text("nothing was sent (dry run)", "bold yellow")]
    said = "nothing has changed there" if document["unchanged"] else "pushed"
    if document["pull_request"]:
        said = "pull request opened"
    line = f"commit {document['commit'][:7]}, {duration(document['seconds'])}"
    return [Text.assemble((said, "bold green"), "  ", printable(line)), *code([document["url"]])]
