"""A training run: its loss over steps, and what happened at which step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normsurgery.plots.lines import drawable, finite
from normsurgery.plots.picture import BLACK, BLUE, GREY, LETTERS, ORANGE, RED, Picture, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
Points = Sequence[Sequence[float]]
WINDOWS = 100  # points of a curve that can be told apart
_CROWDED = 20  # marks in a row
# Rows of the strip below, in the order in which a schedule goes through them.
_KINDS = {"mlp": "MLP", "qk": "query, key", "v": "value", "inner": "inner", "final": "final"}
# Scales of special tokens that merge into the others', by the event's name for them.
_MERGES = {"end": "end of text", "first": "position 0"}
_OTHER = "norms"


def training_pictures(document: Document) -> Iterator[Picture]:
    """The run's loss and the control's, and below it a mark for each event."""
    training = document.get("training") or {}
    name, run = _curve(training)
    if not finite(value for _, value in run):
        return
    control = (document.get("control") or {}).get("loss") or ()
    marks = removal_marks(document)
    rollbacks = training.get("rollbacks") or ()
    said = [f"{name.capitalize()} of the training run over {_steps(run)}"]
    if control:
        said.append(" and of the control, which kept its norms")
    if marks:
        said.append("; a mark below shows the step at which each norm went")
    if rollbacks:
        said.append("; crosses show where it diverged, dotted lines where it went back to")
    if len(run) > WINDOWS:
        said.append("; lines are means, in bands from the least to the greatest loss")
    curves = {"removal" if marks else "training": run} | ({"control": control} if control else {})
    yield Picture(
        "training",
        "Training with removals" if marks else "Training",
        f"{''.join(said)}.",
        lambda: training_curve(curves, marks, rollbacks, name),
    )


def _curve(training: Mapping[str, Any]) -> tuple[str, Points]:
    """Cross-entropy where it is known: the training loss may have other terms."""
    if training.get("ce"):
        return "cross-entropy", training["ce"]
    return "training loss", training.get("loss") or ()


def _steps(points: Points) -> str:
    last = int(max(step for step, _ in points))
    return "1 step" if last == 1 else f"{last:,} steps"


def removal_marks(document: Document) -> dict[str, list[int]]:
    """Row of the strip → the steps of its events, one for each path."""
    kinds = {row["path"]: row["kind"] for row in document.get("paths") or ()}
    found: dict[str, list[int]] = {}
    for event in document.get("events") or ():
        for path in event["paths"]:
            names, key = (
                (_MERGES, path) if event["action"] == "merge" else (_KINDS, kinds.get(path))
            )
            row = names.get(key or "", _OTHER)
            found.setdefault(row, []).append(event["step"])
    order = [*_KINDS.values(), _OTHER, *_MERGES.values()]
    return {row: found[row] for row in order if row in found}


def training_curve(
    curves: Mapping[str, Points],
    marks: Mapping[str, Sequence[int]],
    rollbacks: Sequence[Mapping[str, Any]],
    name: str,
) -> Figure:
    """curves: the run's first, [(step, nats) …]. marks: row → steps. name: of what is drawn."""
    strip = 0.3 * len(marks)
    figure = new_figure(4.2 + strip + (0.5 if marks else 0.0))
    if marks:
        ratios = {"height_ratios": [3.2, strip + 0.1]}
        axes, below = figure.subplots(2, 1, sharex=True, gridspec_kw=ratios)
        _strip(below, marks)
        bottom = below
    else:
        axes = bottom = figure.subplots()
    for place, (label, points) in enumerate(curves.items()):
        _line(axes, points, label, ((BLUE, "-"), (ORANGE, "--"))[place])
    _rolled_back(axes, rollbacks)
    axes.set_ylabel(f"{name} (nats)")
    axes.locator_params(axis="y", nbins=5)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    bottom.set_xlabel("step")
    bottom.locator_params(axis="x", nbins=5, integer=True)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)
    return figure


def _line(axes: Axes, points: Points, label: str, look: tuple[str, str]) -> None:
    """A long run as the means of its windows, in a band from their least to their greatest."""
    colour, style = look
    if len(points) <= WINDOWS:
        steps, values = [step for step, _ in points], [drawable(value) for _, value in points]
        lone = "o" if len(points) == 1 else ""
        axes.plot(steps, values, color=colour, linestyle=style, marker=lone, label=label, gid=label)
        return
    parts = windows(points)
    steps = [step for step, *_ in parts]
    lows, means, highs = zip(*(figures for _, *figures in parts), strict=True)
    axes.fill_between(steps, lows, highs, color=colour, alpha=0.18, linewidth=0)
    axes.plot(steps, means, color=colour, linestyle=style, label=label, gid=label)


def windows(points: Points) -> list[tuple[float, float, float, float]]:
    """(middle step, least, mean, greatest) of at most WINDOWS windows, of what is finite."""
    size = -(-len(points) // WINDOWS)
    found = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = finite(value for _, value in part)
        if values:
            middle = (part[0][0] + part[-1][0]) / 2
            found.append((middle, min(values), sum(values) / len(values), max(values)))
    return found


def _strip(axes: Axes, marks: Mapping[str, Sequence[int]]) -> None:
    for place, (row, steps) in enumerate(marks.items()):
        width = 1.6 if len(steps) <= _CROWDED else 0.7
        axes.plot(
            list(steps), [place] * len(steps), linestyle="", marker="|", markersize=11,
            markeredgewidth=width, color=BLACK, gid=f"mark:{row}",
        )  # fmt: skip
    axes.set_yticks(range(len(marks)), list(marks))
    axes.set_ylim(len(marks) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_title("step at which each went or merged", fontsize=LETTERS - 1, color=GREY)


def _rolled_back(axes: Axes, rollbacks: Sequence[Mapping[str, Any]]) -> None:
    """A cross on the axis where the run diverged, a line where it was taken up again."""
    if not rollbacks:
        return
    low = axes.get_ylim()[0]
    axes.plot(
        [one["step"] for one in rollbacks], [low] * len(rollbacks), linestyle="", marker="X",
        markersize=11, color=RED, clip_on=False, label="diverged", gid="rollback",
    )  # fmt: skip
    for one in rollbacks:
        axes.axvline(one["back_to"], color=RED, linestyle=":", linewidth=1.2)
    axes.set_ylim(bottom=low)
