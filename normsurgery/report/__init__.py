"""What a person reads: tables of documents, the model card, the progress protocol.

A document is what `to_dict()` of a result gives and `--json` prints;
nothing here knows where it came from, and nothing prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(document: dict[str, Any]) -> list[RenderableType]:
    """The report of a result's document, as rich renderables for one console, in order."""
    if document["command"] == "inspect":
        from normsurgery.report.inspect import inspect_report

        return inspect_report(document)
    if document["command"] == "doctor":
        from normsurgery.report.doctor import doctor_report

        return doctor_report(document)
    if document["command"] == "verify":
        from normsurgery.report.verification import verify_report

        return verify_report(document)
    if document["command"] == "push":
        from normsurgery.report.push import push_report

        return push_report(document)
    from normsurgery.report.convert import surgery_report

    return surgery_report(document)
