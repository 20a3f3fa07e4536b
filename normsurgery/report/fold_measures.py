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
_SIDES = ("before", "after")
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
        f"Entering each block, over {kurtosis['tokens']:,} tokens, the first of each row apart: "
        "kurtosis of a token's channels (3 is normal), and the largest channel over the median."
    )


def _streams(kurtosis: Document) -> list[list[str]]:
    """The first block, the worst on either side and the last; the worst also at position 0."""
    blocks = kurtosis["blocks"]
    if not blocks:
        return []
    worst = [max(blocks, key=lambda block: block[side]["kurtosis"]) for side in _SIDES]
    words = {"first": blocks[0], "worst": worst[0], "worst after": worst[1], "last": blocks[-1]}
    rows = []
    for word, block in words.items():
        if word == "worst after" and block is worst[0]:
            continue
        rows.append([f"{word}: {block['block']}", *_figures(block)])
    first = worst[0]["position_0"]
    if first["before"] and first["after"]:
        rows.append(["position 0 of the worst", *_figures(first)])
    return rows


def _figures(found: Document) -> list[str]:
    keys = ("kurtosis", "largest_over_median")
    return [figure(found[side][key]) for key in keys for side in _SIDES]


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
