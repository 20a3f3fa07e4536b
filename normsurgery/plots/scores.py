"""The scores of windows of blocks as a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normsurgery.plots.lines import tick_step
from normsurgery.plots.picture import LETTERS, RED, Picture, new_figure
from normsurgery.plots.words import listed, shortened
from normsurgery.report.prune import ranges, score_methods

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
ANNOTATED = 8  # windows in whose cells figures can still be read
_NAME = 12  # letters of a method beside its row
_WIDE = 24  # columns that a frame does not cover


def score_pictures(document: Document) -> Iterator[Picture]:
    """A row for each method, a column for each window of blocks."""
    rows = drawn_scores(document.get("scores") or ())
    methods = score_methods(rows)
    if not methods:
        return
    dropped = sorted((document.get("blocks") or {}).get("dropped") or ())
    went = _went(rows, dropped)
    size = len(rows[0]["blocks"])
    what = "each block" if size == 1 else f"each run of {size} blocks"
    yield Picture(
        "block-scores",
        "Cost of dropping blocks",
        f"What dropping {what} costs by {listed(methods)}: dark is the cheapest of its row, "
        f"light the dearest.{went}",
        lambda: block_scores(rows, dropped),
    )


def _went(rows: Rows, dropped: Sequence[int]) -> str:
    if not dropped:
        return ""
    if _framed(rows, dropped):
        return f" The dropped blocks ({ranges(dropped)}) are framed."
    return f" Dropped were {ranges(dropped)}, no such run."


def drawn_scores(scores: Rows) -> Rows:
    """The windows of the last round; not the single blocks and the cuts that a trial adds."""
    last = [row for row in scores if row.get("round") == scores[-1].get("round")]
    return [row for row in last if _alike(row, last[0]) and _run(row["blocks"])]


def _alike(row: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    return set(row) == set(first) and len(row["blocks"]) == len(first["blocks"])


def _run(blocks: Sequence[int]) -> bool:
    return bool(blocks) and list(blocks) == list(range(blocks[0], blocks[0] + len(blocks)))


def block_scores(rows: Rows, dropped: Sequence[int]) -> Figure:
    """rows: the document's, of windows of one size. dropped: the blocks that went.

    Each method is scaled between its own least and greatest value, since methods have different
    units. Figures stand in the cells where there are at most ANNOTATED windows.
    """
    methods = score_methods(rows)
    figure = new_figure(1.9 + 0.62 * len(methods))
    axes = figure.add_subplot()
    shares = [_scaled([row.get(method) for row in rows]) for method in methods]
    axes.imshow(shares, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto")
    axes.spines[:].set_visible(False)
    axes.set_yticks(range(len(methods)), [shortened(method, _NAME) for method in methods])
    starts = range(0, len(rows), tick_step(len(rows)))
    axes.set_xticks(list(starts), [str(rows[i]["blocks"][0]) for i in starts])
    size = len(rows[0]["blocks"])
    axes.set_xlabel("block" if size == 1 else f"first of {size} blocks")
    axes.set_title("Cost (dark: cheapest in its row)")
    if len(rows) <= ANNOTATED:
        _annotate(axes, rows, methods, shares)
    _frame(axes, rows, len(methods), dropped)
    return figure


def _scaled(values: Sequence[float | None]) -> list[float]:
    """Between 0 and 1 by the least and greatest; NaN, which stays white, where there is none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    spread = (high - low) or 1.0
    shares = ((value - low) / spread if value is not None else math.nan for value in values)
    return [share if math.isfinite(share) else math.nan for share in shares]


def _annotate(
    axes: Axes, rows: Rows, methods: Sequence[str], shares: Sequence[Sequence[float]]
) -> None:
    for line, method in enumerate(methods):
        for column, row in enumerate(rows):
            share = shares[line][column]
            if not math.isnan(share):
                text = f"{row[method]:.2g}".replace("e-0", "e-").replace("e+0", "e")
                axes.text(
                    column, line, text, ha="center", va="center", fontsize=LETTERS - 2,
                    color="black" if share > 0.6 else "white",
                )  # fmt: skip


def _framed(rows: Rows, dropped: Sequence[int]) -> list[int]:
    """The columns of windows that went as a whole."""
    return [i for i, row in enumerate(rows) if set(row["blocks"]) <= set(dropped)]


def _frame(axes: Axes, rows: Rows, height: int, dropped: Sequence[int]) -> None:
    """A frame around each window that was dropped, and the blocks in words."""
    from matplotlib.patches import Rectangle

    columns = _framed(rows, dropped)
    for column in columns:
        width = 3.0 if len(rows) <= _WIDE else 1.0
        options: dict[str, Any] = {"fill": False, "edgecolor": RED, "linewidth": width}
        axes.add_patch(Rectangle((column - 0.5, -0.5), 1, height, clip_on=False, **options))
    if len(rows) > _WIDE:
        below = [height - 0.35] * len(columns)
        axes.plot(columns, below, "^", color=RED, markersize=10, clip_on=False)
    if columns:
        axes.set_xlabel(f"{axes.get_xlabel()} (framed: dropped, {shortened(ranges(dropped), 14)})")
