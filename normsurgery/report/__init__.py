"""What a person reads: tables of documents, the model card, the progress protocol.

A document is what `to_dict()` of a result gives and `--json` prints;
nothing here knows where it came from, and nothing prints.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


# Command → (module, function) of its report; every other command's is a surgery's.
_REPORTS = {
    "bench": ("bench", "bench_report"),
    "card": ("written_card", "written_card_report"),
    "doctor": ("doctor", "doctor_report"),
    "eval": ("eval", "eval_report"),
    "inspect": ("inspect", "inspect_report"),
    "push": ("push", "push_report"),
    "report": ("report", "report_report"),
    "verify": ("verification", "verify_report"),
}


def render(document: dict[str, Any]) -> list[RenderableType]:
    """The report of a result's document, as rich renderables for one console, in order."""
    module, name = _REPORTS.get(document["command"], ("convert", "surgery_report"))
    report = getattr(import_module(f"{__name__}.{module}"), name)
    found: list[RenderableType] = report(document)
    return found
