"""The steps of a recipe: what each will do, with every option, or what each did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from normsurgery.report.numbers import file_size
from normsurgery.report.tables import facts, plain_table, section


def recipe_sections(document: Mapping[str, Any]) -> list[RenderableType]:
    """The passes of a recipe; nothing for a surgery that was asked for on its own."""
    steps = document.get("steps")
    if not steps:
        return []
    return _planned(document, steps) if "options" in steps[0] else _done(steps)


def _planned(document: Mapping[str, Any], steps: list[dict[str, Any]]) -> list[RenderableType]:
    parts = _overview(document["whole"], steps) if "whole" in document else []
    for one in steps:
        rows = [
            ("contract", one["contract"]),
            ("from → to", f"{one['source']} → {one['output']}"),
            ("pass", _pass(one, steps)),
            *((key, _word(one["options"][key])) for key in one["options"] if key in one["said"]),
            ("defaults", _defaults(one)),
        ]
        parts += section(f"Step {one['step']}: {one['surgery']}{_fused(one)}", facts(rows))
    if len(steps) > 1:
        last = max(one["step"] for one in steps if _number(one) == 1)
        whose = "step 1" if last == 1 else f"steps 1 to {last}, which are one pass"
        said = f"what stands below is of {whose}; later ones are planned on what is made there"
        said = said if last < len(steps) else f"what stands below is of {whose}"
        parts += section("Detail", facts([("·", said)]))
    return parts


def _overview(whole: Mapping[str, Any], steps: list[dict[str, Any]]) -> list[RenderableType]:
    """All steps in a table, and what they come to; nothing for one alone."""
    if len(steps) == 1:
        return []
    rows = [
        [str(one["step"]), f"{one['surgery']}{_fused(one)}", str(_number(one)), one["contract"]]
        for one in steps
    ]
    needed, free = whole["disk_needed"], whole["disk_free"]
    disk = f"about {file_size(needed)} needed at the peak, {file_size(free)} free"
    in_all = [
        ("passes", f"{whole['passes']}; {whole['output']} appears when all steps are verified"),
        ("disk", disk if needed <= free else f"{disk}: NOT ENOUGH"),
    ]
    table = plain_table(["step", "surgery", "pass", "contract"], rows)
    return [*section("Recipe", table), *section("In all", facts(in_all))]


def _defaults(one: Mapping[str, Any]) -> str:
    """`untie: false, dtype: null`: what the recipe does not say."""
    left = [key for key in one["options"] if key not in one["said"]]
    return ", ".join(f"{key}: {_word(one['options'][key])}" for key in left) or "none"


def _pass(one: Mapping[str, Any], steps: list[dict[str, Any]]) -> str:
    """Which pass over the disk, with whom, and why alone."""
    number = _number(one)
    others = [str(other["step"]) for other in steps if _number(other) == number and other != one]
    if others:
        return f"{number}, with step {' and '.join(others)}: no weights between them"
    why = one.get("on_files")
    return f"{number}{f': {why}' if why and len(steps) > 1 else ''}"


def _number(one: Mapping[str, Any]) -> int:
    """Of the pass that a step was part of; documents of old have one for each step."""
    return int(one.get("pass", one["step"]))


def _fused(one: Mapping[str, Any]) -> str:
    """`steps.0 and steps.1 of the recipe in one pass`."""
    if len(one["places"]) == 1:
        return ""
    return f" ({' and '.join(f'steps.{place}' for place in one['places'])} in one pass)"


def _word(value: object) -> str:
    """As the recipe would say it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _done(steps: list[dict[str, Any]]) -> list[RenderableType]:
    rows = [
        [
            str(one["step"]), one["surgery"], str(_number(one)), one["contract"],
            one["verification"]["verdict"],
        ]
        for one in steps
    ]  # fmt: skip
    header = ["step", "surgery", "pass", "contract", "verified"]
    return section("Recipe", plain_table(header, rows))
