"""The scores of windows of blocks as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery.errors import UsageError
from normsurgery.report.prune import ranges, score_methods

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANNOTATED = 12  # windows beside which their figures can still be read
_DPI = 150
_WIDEST = 8.0  # inches: the letters of a wider picture are too small on a phone
_TICKS = 16


def block_scores_png(
    scores: Sequence[Mapping[str, Any]], path: Path, *, dropped: Sequence[int] | None = None
) -> None:
    """A heat map: a row for each method, a column for each window, named by its first block.

    scores: the document's, [{"blocks": [5, 6, 7], METHOD: number or None …}]. Each row is scaled
    between its own least and greatest value, since methods have different units; dark is the
    better one to drop. dropped: the blocks that went; windows of these alone are framed. Figures
    stand in the cells where there are at most ANNOTATED windows. Needs no display. The same scores
    give the same bytes.

    UsageError where matplotlib is not installed, ValueError where there are no scores.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "the heat map of the scores needs matplotlib", "pip install normsurgery[plots]"
        ) from None
    methods = score_methods(scores)
    if not methods:
        raise ValueError("no scores")
    width = min(_WIDEST, max(4.5, 1.4 + 0.5 * len(scores)))
    picture = Figure(figsize=(width, 1.7 + 0.55 * len(methods)), layout="constrained")
    FigureCanvasAgg(picture)
    _draw(picture.add_subplot(), scores, methods, dropped)
    picture.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})


def _draw(
    axes: Axes,
    scores: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    dropped: Sequence[int] | None,
) -> None:
    shares = [_scaled([row.get(method) for row in scores]) for method in methods]
    axes.imshow(shares, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_yticks(range(len(methods)), methods, fontsize=11)
    step = max(1, -(-len(scores) // _TICKS))
    starts = range(0, len(scores), step)
    size = len(scores[0]["blocks"])
    label = "block" if size == 1 else f"first of {size} blocks"
    axes.set_xticks(list(starts), [str(scores[i]["blocks"][0]) for i in starts])
    axes.set_xlabel(label)
    axes.set_title("Cost of dropping, by each score\n(dark: cheapest of its row)", fontsize=11)
    if len(scores) <= ANNOTATED:
        _annotate(axes, scores, methods, shares)
    _frame(axes, scores, methods, dropped)


def _scaled(values: Sequence[float | None]) -> list[float]:
    """Between 0 and 1 by the least and greatest; NaN, which stays white, where there is none."""
    known = [value for value in values if value is not None and value == value]
    low, high = min(known, default=0.0), max(known, default=0.0)
    spread = (high - low) or 1.0
    return [float("nan") if v is None else (v - low) / spread for v in values]


def _annotate(
    axes: Axes,
    scores: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    shares: Sequence[Sequence[float]],
) -> None:
    for line, method in enumerate(methods):
        for column, row in enumerate(scores):
            share = shares[line][column]
            if share == share:
                colour = "black" if share > 0.6 else "white"
                text = f"{row[method]:.2g}".replace("e-0", "e-").replace("e+0", "e")
                axes.text(column, line, text, ha="center", va="center", color=colour, fontsize=9)


def _frame(
    axes: Axes,
    scores: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    dropped: Sequence[int] | None,
) -> None:
    """A red frame around each window that was dropped, and the blocks in words."""
    from matplotlib.patches import Rectangle

    went = set(dropped or ())
    columns = [i for i, row in enumerate(scores) if set(row["blocks"]) <= went]
    for column in columns:
        corner = (column - 0.5, -0.5)
        options: dict[str, Any] = {"fill": False, "edgecolor": "red", "linewidth": 2.5}
        axes.add_patch(Rectangle(corner, 1, len(methods), clip_on=False, **options))
    if columns:
        axes.set_xlabel(f"{axes.get_xlabel()}   (red: dropped, {ranges(sorted(went))})")
