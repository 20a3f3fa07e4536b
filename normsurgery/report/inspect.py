"""The report of `inspect`: repeated blocks folded into one line, so that it fits a screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.names import folded
from normsurgery.report.numbers import figure, file_size, short_count
from normsurgery.report.tables import facts, plain_table, section, title
from normsurgery.report.verification import ending, source_name

Entry = Mapping[str, Any]


def inspect_report(document: dict[str, Any]) -> list[RenderableType]:
    """The report of `inspect`."""
    source = document["source"]
    size = f"{short_count(source['parameters'])} parameters, {file_size(source['bytes'])}"
    kind = source["architecture"] or source["model_type"] or "unknown architecture"
    parts: list[RenderableType] = [
        title("inspect", source_name(source)),
        facts([("source", f"{kind}, {source['dtype']}, {size}")]),
    ]
    parts += section("Parts", _parts(document))
    if document["stacks"]:
        parts += section("Stacks of blocks", _stacks(document["stacks"]))
    parts += _listing("Norm sites", document["norms"], ("kind", "role", "width"), right=(4,))
    parts += _listing("Writers to the stream", document["writers"], ("kind",))
    parts += _listing("Readers of a norm", document["readers"], ())
    if document["health"] is not None:
        parts += section("Health", _health(document["health"]))
    parts += section("Surgeries", _surgeries(document["surgeries"]))
    return [*parts, Text(), ending(document)]


def _parts(document: Entry) -> RenderableType:
    counts = {block["name"]: block["count"] for block in document["blocks"]}
    total = sum(part["bytes"] for part in document["parts"]) or 1
    rows = [
        [
            part["name"],
            f"× {counts[part['name']]}" if part["name"] in counts else "",
            short_count(part["parameters"]),
            file_size(part["bytes"]),
            f"{100 * part['bytes'] / total:.1f} %",
        ]
        for part in document["parts"]
    ]
    columns = ["part", "blocks", "parameters", "bytes", "share"]
    return plain_table(columns, rows, right=range(1, 5), whole=range(1, 5))


def _stacks(stacks: Iterable[Entry]) -> RenderableType:
    rows = [
        [
            one["name"],
            str(one["depth"]),
            str(one["width"] or "–"),
            one["why_not"] or ", ".join(".".join(map(str, key)) for key in one["keys"]),
        ]
        for one in stacks
    ]
    columns = ["stack", "depth", "width", "depth in config.json"]
    return plain_table(columns, rows, right=(1, 2), whole=(1, 2))


def _listing(
    name: str, entries: Sequence[Entry], keys: Sequence[str], *, right: Iterable[int] = ()
) -> list[RenderableType]:
    """Names folded by repeated block, grouped where all of `keys` agree."""
    if not entries:
        return []
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(tuple(str(entry[key]) for key in keys), []).append(entry)
    rows = []
    for values, members in groups.items():
        times = {entry["name"]: entry.get("count", 1) for entry in members}
        each = 1 if len(times) > 1 else next(iter(times.values()))
        rows += [[pattern, figure(count * each), *values] for pattern, count in folded(list(times))]
    # Count first after the name, then what the group has in common.
    table = plain_table(
        ["name", "count", *keys], rows, right=(1, *right), whole=range(1, len(keys) + 2)
    )
    return section(name, table)


def _health(health: Entry) -> RenderableType:
    nonfinite, zero = health["nonfinite"], health["all_zero"]
    if not nonfinite and not zero:
        return Text("every value is finite, and no tensor is all zero")
    rows = [(one["name"], f"{one['nan']:,} NaN, {one['inf']:,} Inf") for one in nonfinite]
    rows += [(name, f"all zero (× {count})") for name, count in folded(zero)]
    return plain_table(["tensor", "finding"], rows)


def _surgeries(surgeries: Iterable[Entry]) -> RenderableType:
    rows = []
    for one in surgeries:
        word = Text("yes", "bold green") if one["applies"] else Text("no", "bold red")
        rows.append([one["name"], word, one["contract"], one["target"], one["reason"] or ""])
    columns = ["surgery", "applies", "contract", "target", "remark"]
    return plain_table(columns, rows, whole=(1, 2, 3))
