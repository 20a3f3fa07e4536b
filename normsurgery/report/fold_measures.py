"""What folds measure: the rotated stream's outliers, and a recalibrated model before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.markdown import cell, row
from normsurgery.report.numbers import figure, percent
from normsurgery.report.tables import plain_table, section

Document = Mapping[str, Any]
_STREAM = ("block", "kurtosis", "after", "largest / median", "after")
_HELD = ("samples held out", "loss (nats)", "accuracy", "error")


def measure_sections(document: Document) -> list[RenderableType]:
    """Sections of the report; none where nothing was measured."""
    parts: list[RenderableType] = []
    kurtosis, recalibration = document.get("kurtosis"), document.get("recalibration")
    if kurtosis:
        rows = _streams(kurtosis)
        table = plain_table(_STREAM, rows, right=range(1, 5)) if rows else Text()
        parts += section("The stream's outliers", Text(_stream_line(kurtosis)), table)
    if recalibration:
        table = plain_table(_HELD, _held(recalibration), right=range(1, 4))
        parts += section("Recalibrated", Text(_fitted_line(recalibration)), table)
    return parts


def measure_markdown(document: Document) -> str:
    """The same for the card."""
    kurtosis, recalibration = document.get("kurtosis"), document.get("recalibration")
    text = ""
    if kurtosis:
        text += f"\n\n## The stream's outliers\n\n{cell(_stream_line(kurtosis))}\n"
        text += _table(_STREAM, _streams(kurtosis))
    if recalibration:
        text += f"\n\n## Recalibrated\n\n{cell(_fitted_line(recalibration))}\n"
        text += _table(_HELD, _held(recalibration))
    return text


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [row(columns), row(["---"] * len(columns)), *(row(cells) for cells in rows)]
    return "\n" + "\n".join(lines)


def _stream_line(kurtosis: Document) -> str:
    if not kurtosis["measured"]:
        return f"Not measured: {kurtosis['why_not']}."
    return (
        f"Entering each block, over {kurtosis['tokens']:,} tokens without the first of a row: "
        "kurtosis of a token's channels (3 is normal), and the largest channel over the median."
    )


def _streams(kurtosis: Document) -> list[list[str]]:
    return [
        [
            str(block["block"]),
            *(
                figure(block[side][key])
                for key in ("kurtosis", "largest_over_median")
                for side in ("before", "after")
            ),
        ]
        for block in kurtosis["blocks"]
    ]


def _fitted_line(recalibration: Document) -> str:
    again = recalibration["reinserted"]
    return (
        f"{recalibration['norms']:,} BatchNorms have new statistics"
        f"{f' ({again:,} of them put back where they were folded)' if again else ''}, from "
        f"{recalibration['samples']:,} samples; {recalibration['held_out']:,} were held out."
    )


def _held(recalibration: Document) -> list[list[str]]:
    return [
        [side, figure(found["loss"]), percent(found["accuracy"]), figure(found["error"])]
        for side in ("before", "after", "reference")
        if (found := recalibration.get(side))
    ]
