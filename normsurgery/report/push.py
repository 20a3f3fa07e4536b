"""The report of `push`: what went where, what stayed, and the link."""

from __future__ import annotations

from collections.abc import Mapping
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


def pushed_sections(document: Mapping[str, Any]) -> list[RenderableType]:
    """Of a recipe that pushes: where its output is now, or would go."""
    push = document.get("push")
    if not push:
        return []
    rows = [("to", push["repository"]), ("revision", push["revision"])]
    rows += [("visible", _visible(push))]
    rows += [("message", push["message"])] if push["message"] else []
    if push["dry_run"]:
        rows += [("how", "as a pull request")] if push["create_pr"] else []
        rows += [("verified", "or not: the card says so")] if push["unverified"] else []
        said = "once the output stands; a repository is made where there is none"
        return section("Push", facts([("when", said), *rows]))
    return [*section("Pushed", facts([*rows, ("what", _ended(push))])), *code([push["url"]])]


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    verdict, licence = document["verdict"], document["licence"]
    rows = [("source", source_name(document["source"]))] if document["source"] else []
    rows += [
        ("verified", verdict if verdict == "pass" else f"{verdict}: the card says so"),
        ("licence", licence["name"] or licence["id"] or "the card names none"),
        ("revision", document["revision"]),
        ("visible", _visible(document)),
    ]
    return rows


def _visible(push: Mapping[str, Any]) -> str:
    return "to you and your organization" if push["private"] else "to everyone"


def _ending(document: dict[str, Any]) -> list[RenderableType]:
    if document["dry_run"]:
        return [Text("nothing was sent (dry run)", "bold yellow")]
    said = _ended(document)
    line = f"commit {document['commit'][:7]}, {duration(document['seconds'])}"
    return [Text.assemble((said, "bold green"), "  ", printable(line)), *code([document["url"]])]


def _ended(push: Mapping[str, Any]) -> str:
    if push["pull_request"]:
        return "pull request opened"
    return "nothing has changed there" if push["unchanged"] else "pushed"
