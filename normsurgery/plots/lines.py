"""Lines over blocks or steps: who looks how, and axes that stay readable."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normsurgery.plots.picture import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS = 8
_STEPS = (1, 2, 5, 10, 20, 50, 100)
_CROWDED = 24  # markers on a line
_SPREAD = 20.0  # times the least: from here on an axis is logarithmic


@dataclass(frozen=True)
class Look:
    """A colour, and what tells it apart without one."""

    colour: str
    line: str
    marker: str


BEFORE = Look(GREY, "--", "o")
AFTER = Look(BLUE, "-", "D")
# For any number of lines: after eight the same colours come with other line styles.
_COLOURS = (BLUE, ORANGE, GREEN, PINK, RED, SKY, BLACK, GREY)
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def nth(number: int) -> Look:
    """The look of the nth of many lines, from 0."""
    place, again = number % len(_COLOURS), number // len(_COLOURS)
    return Look(_COLOURS[place], _LINES[again % len(_LINES)], _MARKERS[place])


def finite(values: Iterable[float | None]) -> list[float]:
    """Those that can be drawn."""
    return [value for value in values if value is not None and math.isfinite(value)]


def drawable(value: float | None) -> float:
    """NaN, a gap in a line, for what cannot be drawn."""
    return value if value is not None and math.isfinite(value) else math.nan


def scale_y(axes: Axes, values: Iterable[float]) -> None:
    """A logarithmic axis where the values spread over more than an order of magnitude."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = [value for value in values if value > 0]
    if positive and max(positive) > _SPREAD * min(positive):
        axes.set_yscale("log")
        near = max(positive) < 100 * min(positive)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if near else (1.0,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="y", nbins=5)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)


def tick_step(count: int) -> int:
    """From one tick to the next, for few ticks over `count` places."""
    return next((step for step in _STEPS if count <= _TICKS * step), count)


def block_ticks(axes: Axes, count: int) -> None:
    """Few ticks, at numbers of blocks below `count`."""
    axes.set_xticks(range(0, count, tick_step(count)))


def points(
    axes: Axes, at: Sequence[float], values: Sequence[float], look: Look, **named: Any
) -> None:
    """A line with hollow markers, which one above another can be told apart."""
    small = len(values) > _CROWDED
    axes.plot(
        list(at), list(values), color=look.colour, linestyle=look.line, marker=look.marker,
        markersize=4 if small else 8, markerfacecolor="none", markeredgewidth=1.0 if small else 2.0,
        linewidth=1.5, **named,
    )  # fmt: skip
