"""What `eval` found: perplexity and tasks of two models, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.numbers import ABSENT, figure
from normsurgery.report.tables import facts, plain_table, section, title
from normsurgery.report.verification import candidate_name, ending, source_name

Figures = Mapping[str, Any]
_NOISE = "within noise"


def eval_report(document: dict[str, Any]) -> list[RenderableType]:
    """The report of `eval`."""
    parts: list[RenderableType] = [
        title("eval", f"{source_name(document['source'])} ↔ {candidate_name(document)}"),
        facts([("run in", _settings(document["settings"]))]),
    ]
    if document["perplexity"] is not None:
        parts += section("Perplexity", *_perplexity(document["perplexity"]))
    if document["tasks"] is not None:
        parts += section("Tasks  (candidate − reference, ± standard errors)", _tasks(document))
    if document["notes"]:
        parts += section("Remarks", facts([("·", note) for note in document["notes"]]))
    return [*parts, Text(), ending(document)]


def _settings(settings: Figures) -> str:
    harness = f"; lm-eval {settings['lm_eval']}" if settings["lm_eval"] else ""
    limit = f", {figure(settings['limit'])} samples a task" if settings["limit"] else ""
    return f"{settings['dtype']} on {settings['device']}{harness}{limit}"


def _perplexity(found: Figures) -> list[RenderableType]:
    rows = [
        [name, f"{found[name]['perplexity']:.4g}", f"{found[name]['mean']:.4f}",
         f"{found[name]['median']:.4f}", f"{found[name]['p999']:.3f}", f"{found[name]['max']:.3f}"]
        for name in ("reference", "candidate")
    ]  # fmt: skip
    columns = ["", "perplexity", "mean nats", "median", "99.9 %", "max"]
    ratio, about = found["ratio"], found["source"]
    interval = "" if ratio["low"] is None else f" [{ratio['low']:.4f}, {ratio['high']:.4f}]"
    return [
        plain_table(columns, rows, right=range(1, 6)),
        facts([
            ("difference", difference_text(found["difference"], 5, " nats per token")),
            ("perplexity ×", f"{ratio['value']:.4f}{interval}"),
            ("on", f"{about['source']}, {about['tokens']:,} tokens in {about['rows']:,} rows"),
        ]),
    ]  # fmt: skip


def difference_text(found: Figures, digits: int, unit: str = "") -> str:
    """`+0.0123 ± 0.0045`, with the words where 0 lies within 1.96 errors."""
    error = "" if found["error"] is None else f" ± {found['error']:.{digits}f}"
    words = f" {_NOISE}" if found["within_noise"] else ""
    return f"{found['value']:+.{digits}f}{error}{unit}{words}"


def _tasks(document: Figures) -> RenderableType:
    rows = []
    for entry in document["tasks"]:
        metric = entry["metric"]
        if entry["filter"] != "none":
            metric += f" ({entry['filter']})"
        arrow = {True: " ↑", False: " ↓"}.get(entry["higher_is_better"], "")
        difference = difference_text(entry["difference"], 4)
        rows.append([
            entry["task"], metric + arrow, figure(entry["samples"]),
            *(_value(entry[name]) for name in ("reference", "candidate")),
            f"{difference}{' (paired)' if entry['paired'] else ''}",
        ])  # fmt: skip
    columns = ["task", "metric", "samples", "reference", "candidate", "difference"]
    return plain_table(columns, rows, right=(2, 3, 4))


def _value(found: Figures) -> str:
    if found["value"] is None:
        return ABSENT
    return f"{found['value']:.4f}"
