"""How spiky the residual stream is at each block, before and after it was rotated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normsurgery.plots.lines import AFTER, BEFORE, block_ticks, drawable, finite, points, scale_y
from normsurgery.plots.picture import BLACK, Picture, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
NORMAL = 3.0  # the kurtosis of normal channels
_SIDES = {"before": BEFORE, "after": AFTER}
_PANELS = {"all": "every position but the first", "first": "position 0"}


def kurtosis_pictures(document: Document) -> Iterator[Picture]:
    """A panel for position 0 and one for the others; before and after over blocks."""
    found = document.get("kurtosis") or {}
    rows = found.get("blocks") or ()
    panels = [panel for panel in _PANELS if _values(rows, panel)]
    if not panels:
        return
    tokens = f", over {found['tokens']:,} tokens" if found.get("tokens") else ""
    yield Picture(
        "kurtosis",
        "Outliers of the residual stream",
        "Mean kurtosis of a token's channels as the residual stream enters each block, before and "
        f"after the rotation{tokens}; {NORMAL:g} is normal, more is more outliers.",
        lambda: kurtosis(rows, panels),
    )


def kurtosis(rows: Rows, panels: Sequence[str]) -> Figure:
    """rows: the document's, one for each block. panels: of "all", "first"."""
    figure = new_figure(1.2 + 2.3 * len(panels))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _panel(axes, rows, panel)
        axes.set_title(f"Kurtosis, {_PANELS[panel]}")
    all_axes[-1].set_xlabel("block")
    block_ticks(all_axes[-1], len(rows))
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3)
    return figure


def _panel(axes: Axes, rows: Rows, panel: str) -> None:
    places = range(len(rows))
    for side, look in _SIDES.items():
        values = [drawable(_value(row, panel, side)) for row in rows]
        points(axes, places, values, look, label=side, gid=f"{panel}:{side}")
    axes.axhline(NORMAL, color=BLACK, linestyle=":", linewidth=1.5, label=f"normal: {NORMAL:g}")
    scale_y(axes, [*_values(rows, panel), NORMAL])


def _values(rows: Rows, panel: str) -> list[float]:
    return finite(_value(row, panel, side) for row in rows for side in _SIDES)


def _value(row: Mapping[str, Any], panel: str, side: str) -> float | None:
    place = row if panel == "all" else row.get("position_0") or {}
    value: float | None = (place.get(side) or {}).get("kurtosis")
    return value
