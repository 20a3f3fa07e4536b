"""The report of a surgery: what was done, whether it holds, what came out and how to load it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.fold_bn import batch_norm_facts, batch_norm_sections
from normsurgery.report.folding import fold_sections
from normsurgery.report.loading import loading_lines
from normsurgery.report.numbers import figure, file_size, memory_size, short_count
from normsurgery.report.plots import plots_facts
from normsurgery.report.prune import depth_facts, depth_sections
from normsurgery.report.recipe import recipe_sections
from normsurgery.report.removal import removal_facts, removal_sections
from normsurgery.report.tables import code, facts, plain_table, section, title
from normsurgery.report.verification import ending, source_name, verification_report

_TENSORS = ("kept", "changed", "added", "dropped")


def surgery_report(document: dict[str, Any]) -> list[RenderableType]:
    """The report of any surgery or recipe, or of the plan where it is a dry run."""
    plan = document.get("plan")
    output = document["output"] or _unwritten(document)
    parts: list[RenderableType] = [
        title(document["command"], f"{source_name(document['source'])} → {output}"),
        facts([*surgery_facts(document), *plots_facts(document)]),
        *alternatives_section(document["target"]),
    ]
    parts += recipe_sections(document)
    parts += section("Steps", _steps(document["receipts"])) if document["receipts"] else []
    parts += batch_norm_sections(document)
    parts += removal_sections(document)
    parts += fold_sections(document)
    parts += depth_sections(document)
    if document.get("proof"):
        parts += section("Proof on a tiny random twin", proof_table(document["proof"]))
    if plan:
        parts += _plan(plan)
    elif not document.get("preview"):
        parts += verification_report(document["verification"])
    notes = surgery_notes(document)
    if notes:
        parts += section("Notes", facts([("·", note) for note in notes]))
    if document["output"]:
        parts += [*section("Load it"), *code(loading_lines(document, document["output"]))]
    return [*parts, Text(), ending(document)]


def surgery_facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The head of the report: what was opened, what became of it, by which choices."""
    contracts = dict.fromkeys(receipt["contract"] for receipt in document["receipts"])
    return [
        ("source", _described(document["source"])),
        *([("contract", ", ".join(contracts))] if contracts else []),
        *_target(document["target"]),
        *_norms(document["receipts"]),
        *batch_norm_facts(document),
        *depth_facts(document),
        *removal_facts(document),
    ]


def surgery_notes(document: Mapping[str, Any]) -> list[str]:
    """What the surgery and its steps want known, each once."""
    own = document.get("notes") or ()
    steps = (note for receipt in document["receipts"] for note in receipt.get("notes") or ())
    return list(dict.fromkeys([*own, *steps]))


def _unwritten(document: Mapping[str, Any]) -> str:
    return f"nothing written ({'preview' if document.get('preview') else 'dry run'})"


def _described(source: Mapping[str, Any]) -> str:
    size = f"{short_count(source['parameters'])} parameters, {file_size(source['bytes'])}"
    return f"{source['architecture']}, {source['dtype']}, {size}"


def _target(target: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "target", f"{target['form']}: {target['why']}"
    if target["form"] == "native":
        yield "class", target["architecture"]
    engines = target.get("engines") or ()
    if "transformers" in engines:
        yield "runs in", "transformers"
    others = [engine for engine in engines if engine != "transformers"]
    if others:
        yield "expected in", f"{', '.join(others)} (by its configuration, not tested)"


def alternatives_section(target: Mapping[str, Any]) -> list[RenderableType]:
    """What else could have been chosen, what it costs, and why it was not; empty without any."""
    rows = []
    for one in target.get("alternatives") or ():
        size = one["bytes"]
        rows.append(
            [
                f"{one['form']}: {one['architecture']}",
                "" if size is None else f"{one['parameters_added']:+,}",
                "" if size is None else file_size(size),
                _context(one["context"]),
                ", ".join(one["engines"]),
                one["why_not"],
            ]
        )
    columns = ["target", "parameters", "bytes", "context", "expected in", "why not"]
    return section("Alternatives", plain_table(columns, rows, right=(1, 2))) if rows else []


def _context(context: Sequence[int | None] | None) -> str:
    before, after = context or (None, None)
    if before is None:
        return ""
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"


def _norms(receipts: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    for receipt in receipts:
        norms = receipt.get("norms") or {}
        if norms:
            before, after = (_kinds(norms.get(side) or {}) for side in ("before", "after"))
            yield "norms", f"{before} → {after}"


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"


def _steps(receipts: Iterable[Mapping[str, Any]]) -> RenderableType:
    rows = []
    for receipt in receipts:
        counts = [figure(receipt["tensors"][key]) for key in _TENSORS]
        rows.append([receipt["surgery"], receipt["contract"], *counts])
    return plain_table(["surgery", "contract", *_TENSORS], rows, right=range(2, 6))


def proof_table(proof: Mapping[str, Any]) -> RenderableType:
    """Errors must stay under the bound; each negative control, a sabotaged result, must not."""
    rows = [
        [form, figure(error), figure(proof["bound"]), figure(proof["controls"].get(form))]
        for form, error in proof["errors"].items()
    ]
    return plain_table(["form", "error / std", "allowed", "sabotaged"], rows, right=(1, 2, 3))


def _plan(plan: Mapping[str, Any]) -> list[RenderableType]:
    tensors = " · ".join(f"{plan['tensors'][key]:,} {key}" for key in _TENSORS)
    needed, free = plan["disk_needed"], plan["disk_free"]
    disk = f"{file_size(needed)} needed, {file_size(free)} free"
    parts = section(
        "Plan",
        facts(
            [
                ("tensors", tensors),
                ("weights", file_size(plan["bytes"])),
                ("disk", disk if needed <= free else f"{disk}: NOT ENOUGH"),
                ("memory", f"about {memory_size(plan['peak_memory_bytes'])} at the peak"),
                ("contract", f"{plan['contract']}, verified on the saved files"),
            ]
        ),
    )
    if plan["config_diff"]:
        rows = [(key, _short(old), _short(new)) for key, (old, new) in plan["config_diff"].items()]
        parts += section("config.json", plain_table(["key", "before", "after"], rows))
    return parts


def _short(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return str(value)
