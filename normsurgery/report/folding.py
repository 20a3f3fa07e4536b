"""What `fold` did and what it left, for the report and for the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.fold_measures import measure_markdown, measure_sections
from normsurgery.report.markdown import row, table
from normsurgery.report.names import folded
from normsurgery.report.numbers import figure
from normsurgery.report.tables import plain_table, section

Document = Mapping[str, Any]


def fold_sections(document: Document) -> list[RenderableType]:
    """A table of the folds, and one of the sites that they left; empty for other surgeries."""
    folds: Sequence[Document] = document.get("folds") or ()
    if not folds:
        return []
    rows: list[list[str | Text]] = [
        [one["name"], figure(one["count"]), figure(len(one["left"])), _remark(one)] for one in folds
    ]
    columns = ["fold", "sites", "left", "why not"]
    parts = section("Folds", plain_table(columns, rows, right=(1, 2), whole=(0, 1, 2)))
    left = [list(cells) for cells in _left(folds)]
    if left:
        parts += section("Left as it is", plain_table(["fold", "site", "count", "why"], left))
    return [*parts, *measure_sections(document)]


def fold_markdown(document: Document) -> str:
    """The card's section; empty for other surgeries."""
    folds: Sequence[Document] = document.get("folds") or ()
    if not folds:
        return ""
    lines = [row(["fold", "sites", "left", "why not"]), row(["---"] * 4)]
    lines += [
        row([one["name"], f"{one['count']:,}", f"{len(one['left']):,}", _remark(one)])
        for one in folds
    ]
    left = list(_left(folds))
    if left:
        lines += ["", "Left as it is:", ""]
        lines += table(["fold", "site", "count", "why"], left, "What was left, and why")
    return "\n\n## What was folded\n\n" + "\n".join(lines) + measure_markdown(document)


def fold_heading(document: Document) -> str | None:
    """`with norm and layerscale folded`, or None for other surgeries."""
    names = [one["name"] for one in document.get("folds") or () if one["applies"]]
    if not names:
        return None
    if names == ["recalibrate"]:
        return "BatchNorms recalibrated"
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"{listed} folded"


def _remark(one: Document) -> str:
    return str(one["why_not"] or "")


def _left(folds: Sequence[Document]) -> list[tuple[str, str, str, str]]:
    """Sites left by fold and reason, those of repeated blocks in one line."""
    lines = []
    for one in folds:
        reasons: dict[str, list[str]] = {}
        for site, reason in one["left"].items():
            reasons.setdefault(_general(reason), []).append(site)
        for reason, sites in reasons.items():
            for pattern, count in folded(sites):
                lines.append((one["name"], pattern, figure(count), reason))
    return lines


def _general(reason: str) -> str:
    """A reason without the numbers of blocks, so that those of all blocks fall together."""
    return ".".join("#" if piece.isdigit() else piece for piece in reason.split("."))
