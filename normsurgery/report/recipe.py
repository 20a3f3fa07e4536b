"""The steps of a recipe: what each will do, with every option, or what each did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from normsurgery.report.tables import facts, plain_table, section


def recipe_sections(document: Mapping[str, Any]) -> list[RenderableType]:
    """The passes of a recipe; nothing for a surgery that was asked for on its own."""
    steps = document.get("steps")
    if not steps:
        return []
    return _planned(steps) if "options" in steps[0] else _done(steps)


def _planned(steps: list[dict[str, Any]]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for one in steps:
        rows = [
            ("contract", one["contract"]),
            ("from → to", f"{one['source']} → {one['output']}"),
            *((key, _word(value)) for key, value in one["options"].items()),
        ]
        parts += section(f"Step {one['step']}: {one['surgery']}{_fused(one)}", facts(rows))
    if len(steps) > 1:
        said = "what stands below is of step 1; the later ones are planned on what it makes"
        parts += section("Detail", facts([("·", said)]))
    return parts


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
        [str(one["step"]), one["surgery"], one["contract"], one["verification"]["verdict"]]
        for one in steps
    ]
    return section("Recipe", plain_table(["step", "surgery", "contract", "verified"], rows))
