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
    if document["command"] == "verify":
        from normsurgery.report.verification import verify_report

        return verify_report(document)
    if document["command"] == "bench":
        from normsurgery.report.bench import bench_report

        return bench_report(document)
    if document["command"] == "eval":
        from normsurgery.report.eval import eval_report

        return eval_report(document)
    from normsurgery.report.convert import surgery_report

    return surgery_report(document)
