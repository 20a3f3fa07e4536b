"""Mean, median, 99.9th percentile and maximum of token losses, model beside model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normsurgery.plots.picture import BLUE, GREEN, GREY, LETTERS, ORANGE, Picture, new_figure
from normsurgery.plots.words import listed, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
QUANTILES = {"mean": "mean", "median": "median", "p999": "p99.9", "max": "maximum"}
DOMAINS = 3  # more would be a picture that nobody scrolls through
_BAR = 0.32  # inches
_LONGEST = 0.82  # of the width: the rest is for the figure beside the bar
_LOOKS = {
    "original": (GREY, ""),
    "control": (ORANGE, "//"),
    "before": (ORANGE, "//"),
    "drop": (ORANGE, "//"),
    "one-shot": (BLUE, ""),
    "result": (BLUE, ""),
}
_OTHER = (GREEN, "..")


def loss_pictures(document: Document) -> Iterator[Picture]:
    """A panel for each domain, a group of bars for each quantile, a bar for each model."""
    entries = (document.get("losses") or {}).items()
    tables = {_domain(name, entry): models_of(entry) for name, entry in entries}
    tables = {name: models for name, models in tables.items() if models}
    if not tables:
        return
    shown = dict(list(tables.items())[:DOMAINS])
    models = list(dict.fromkeys(model for table in shown.values() for model in table))
    more = f" ({len(tables) - DOMAINS} more are not shown)" if len(tables) > DOMAINS else ""
    yield Picture(
        "losses",
        "Loss before and after",
        f"Loss per token in nats on {listed(shown)}{more}, lower is better: mean, median, 99.9th "
        f"percentile and maximum of {listed(models)}.",
        lambda: losses(shown, models),
    )


def _domain(name: str, entry: Mapping[str, Any]) -> str:
    """A domain's name, with its text's where that is another."""
    source = (entry.get("source") or {}).get("source")
    return name if source in (None, name) else f"{name} ({source})"


def models_of(entry: Mapping[str, Any]) -> dict[str, Mapping[str, float | None]]:
    """Model → its figures, of those that have any."""
    return {
        name: figures
        for name, figures in entry.items()
        if name != "source" and any(figures.get(key) is not None for key in QUANTILES)
    }


def losses(
    tables: Mapping[str, Mapping[str, Mapping[str, float | None]]], models: Sequence[str]
) -> Figure:
    """tables: domain → model → figures in nats."""
    rows = len(QUANTILES) * (len(models) + 0.7)
    figure = new_figure(1.3 + len(tables) * (0.6 + _BAR * rows))
    panels = figure.subplots(len(tables), 1, sharex=True, squeeze=False)[:, 0]
    known = [
        value
        for table in tables.values()
        for figures in table.values()
        for value in _values(figures)
        if value is not None and math.isfinite(value)
    ]
    end = (max(known, default=1.0) or 1.0) / _LONGEST
    for axes, (domain, table) in zip(panels, tables.items(), strict=True):
        _panel(axes, table, models, end)
        axes.set_title(shortened(domain, 40))
        axes.set_xlim(0, end)
    panels[-1].set_xlabel("loss (nats per token)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(3, len(models)))
    return figure


def _values(figures: Mapping[str, float | None]) -> list[float | None]:
    return [figures.get(key) for key in QUANTILES]


def _panel(
    axes: Axes,
    table: Mapping[str, Mapping[str, float | None]],
    models: Sequence[str],
    end: float,
) -> None:
    pitch = len(models) + 0.7
    for number, model in enumerate(models):
        at = [group * pitch + number for group in range(len(QUANTILES))]
        values = _values(table.get(model, {}))
        colour, hatch = _LOOKS.get(model, _OTHER)
        lengths = [_length(value, end) for value in values]
        axes.barh(at, lengths, 0.86, label=model, color=colour, hatch=hatch, edgecolor="white")
        for place, value, length in zip(at, values, lengths, strict=True):
            axes.text(length + 0.01 * end, place, _said(value), va="center", fontsize=LETTERS - 2)
    middle = (len(models) - 1) / 2
    axes.set_yticks([g * pitch + middle for g in range(len(QUANTILES))], list(QUANTILES.values()))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=5)


def _length(value: float | None, end: float) -> float:
    """Of a bar; one without end reaches as far as bars do, one that is missing is none."""
    if value is None or math.isnan(value):
        return 0.0
    return min(max(value, 0.0), _LONGEST * end)


def _said(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "not measured"
    if math.isinf(value):
        return "∞"
    return f"{value:.2f}" if value < 1000 else f"{value:.2g}"
