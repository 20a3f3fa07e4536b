"""Verification figures: measured beside allowed, one column for each form that was verified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.checks import Figures, checks, forms_of
from normsurgery.report.numbers import duration, figure, memory_size
from normsurgery.report.tables import facts, plain_table, section, title, verdict


def verify_report(document: dict[str, Any]) -> list[RenderableType]:
    """The report of `verify`."""
    verification = document["verification"]
    reference = document.get("reference") or document["source"]
    names = f"{source_name(reference)} ↔ {candidate_name(document)}"
    return [
        title("verify", names),
        facts([("contract", verification["contract"])]),
        *verification_report(verification),
        Text(),
        ending(document),
    ]


def candidate_name(document: dict[str, Any]) -> str:
    candidate = document.get("candidate")
    return source_name(candidate) if isinstance(candidate, dict) else str(candidate)


def source_name(source: Figures) -> str:
    """`EleutherAI/pythia-160m@50f5173`."""
    revision = source.get("revision")
    return f"{source['model']}@{revision[:7]}" if revision else str(source["model"])


def verification_report(verification: Figures) -> list[RenderableType]:
    """The table of checks, the verdict, and the reasons where it is fail."""
    if verification["verdict"] == "skipped":
        warning = "the saved files were NOT verified (--no-verify)"
        return [Text(), Text.assemble(verdict("skipped"), f"  {warning}")]
    if "steps" in verification:
        return [part for one in verification["steps"] for part in _step_report(one)]
    forms = forms_of(verification)
    one = next(iter(forms.values()))
    where = _conditions(one)
    parts: list[RenderableType] = [
        Text(),
        _table(forms),
        Text.assemble(verdict(verification["verdict"]), f"  {where}"),
    ]
    reasons = [f"{name}: {why}" for name, why in _said(forms, "reasons")]
    notes = [why for _, why in _said(forms, "notes")]
    if reasons:
        parts += section("Why it fails", facts([("·", reason) for reason in reasons]))
    if notes:
        parts += section("Remarks", facts([("·", note) for note in dict.fromkeys(notes)]))
    return parts


def _step_report(one: Figures) -> list[RenderableType]:
    """A step of a recipe, held against what it was given."""
    inner = {key: value for key, value in one.items() if key not in ("step", "surgery")}
    if "with_step" in one:
        said = f"in one pass with step {one['with_step']}, and verified with it"
        return [Text(), Text(f"Step {one['step']} ({one['surgery']}): {said}", "bold")]
    since = one.get("since_step", one["step"])
    whose = "it" if since == one["step"] else f"step {since}"
    heading = f"Step {one['step']} ({one['surgery']}), against what {whose} was given"
    return [Text(), Text(heading, "bold"), *verification_report(inner)]


def _conditions(one: Figures) -> str:
    """`float16 on cpu, 1,024 tokens`; where no outputs were compared, what was looked at."""
    if one.get("dtype") is None:
        return "the saved files load"
    unit = one.get("unit", "tokens")
    tokens = f", {figure(one['tokens'])} {unit}" if one.get("tokens") else ""
    return f"{one['dtype']} on {one['device']}{tokens}"


def _said(forms: Mapping[str, Figures], key: str) -> list[tuple[str, str]]:
    return [(name, text) for name, one in forms.items() for text in one.get(key) or ()]


def _table(forms: Mapping[str, Figures]) -> RenderableType:
    rows: list[list[str | Text]] = []
    for check, measured, allowed, passed in checks(forms):
        word = Text() if passed is None else verdict("pass" if passed else "fail")
        rows.append([check, *measured, allowed, word])
    last = len(forms) + 1
    return plain_table(
        ["check", *forms, "allowed", ""],
        rows,
        right=range(1, last + 1),
        whole=range(1, last + 2),
    )


def ending(document: Figures) -> RenderableType:
    """The last line of every report: time and memory."""
    return facts(
        [
            (
                duration(document.get("seconds")),
                f"peak memory {memory_size(document.get('peak_memory_bytes'))}",
            )
        ]
    )
