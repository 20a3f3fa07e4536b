"""What `fold-bn` adds to its report and card: every BatchNorm, by block, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from normsurgery.report.markdown import cell, literal, table
from normsurgery.report.names import folded
from normsurgery.report.tables import plain_table, section

Document = Mapping[str, Any]
KINDS = {
    "producer": "into the map before it",
    "consumer": "into the maps after it",
    "branch": "into the convolution beside it",
    "stays": "stays",
    "dead": "never runs",
}


def batch_norm_facts(document: Document) -> Iterator[tuple[str, str]]:
    """Lines for the head of the report."""
    found = document.get("batch_norms")
    if found:
        yield "folds", folds_line(found)


def batch_norm_sections(document: Document) -> list[RenderableType]:
    """Sections for the body of the report; none where the document has none of this."""
    found = document.get("batch_norms")
    if not found:
        return []
    rows = [[name, str(count), kind, reason] for name, count, kind, reason in _rows(found)]
    columns = ["norms", "count", "what becomes of them", "why"]
    return section("BatchNorms", plain_table(columns, rows, right=(1,)))


def folds_line(found: Document) -> str:
    """`53 of 53 BatchNorms: 53 into the map before it`, and merges where there are any."""
    kinds = [norm["kind"] for norm in found["norms"]]
    counts = [f"{kinds.count(kind)} {KINDS[kind]}" for kind in KINDS if kind in kinds]
    line = f"{found['folded']} of {len(kinds)} BatchNorms: {', '.join(counts)}"
    merged = found["merged_maps"]
    return f"{line}; {merged} parallel maps merged" if merged else line


def batch_norm_heading(document: Document) -> str:
    """What a card's heading says after the model's name, "" for another command."""
    found = document.get("batch_norms")
    if not found:
        return ""
    gone = "without its BatchNorms" if found["form"] != "keep" else "with its BatchNorms folded"
    return gone if not found["left"] else f"with {found['folded']} BatchNorms folded"


def batch_norm_markdown(document: Document) -> str:
    """The card's table of BatchNorms, "" for another command."""
    found = document.get("batch_norms")
    if not found:
        return ""
    lines = ["", "", "## BatchNorms", "", cell(f"{folds_line(found)}."), ""]
    rows = [
        [literal(name), str(count), kind, cell(reason)]
        for name, count, kind, reason in _rows(found)
    ]
    lines += table(["norms", "count", "what became of them", "why"], rows, "Every BatchNorm")
    return "\n".join(lines)


def _rows(found: Document) -> Iterable[Sequence[Any]]:
    """Repeated blocks folded into one line where kind and reason agree."""
    groups: dict[tuple[str, str], list[str]] = {}
    for norm in found["norms"]:
        key = (KINDS[norm["kind"]], norm["reason"] or "")
        groups.setdefault(key, []).append(norm["name"])
    for (kind, reason), names in groups.items():
        for name, count in folded(names):
            yield name, count, kind, reason
