"""σ̂, the frozen scales that took the norms' place, by site; position 0 apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from normsurgery.plots.lines import block_ticks, drawable, finite, nth, points, scale_y
from normsurgery.plots.picture import Picture, new_figure
from normsurgery.plots.words import block_number, shortened, site_in_block

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
# Key of the document's rows → the panel's title.
PLACES = {
    "sigma": "σ̂ of ordinary tokens",
    "first": "σ̂ at position 0 (before it merged)",
    "end": "σ̂ of end-of-text (before it merged)",
}
_IN_CAPTION = {"sigma": "ordinary tokens", "first": "position 0", "end": "end-of-text tokens"}
_NAME = 20  # letters of a site in the legend


def scale_pictures(document: Document) -> Iterator[Picture]:
    """A panel for each kind of position, a line for each site of a block, blocks from left to
    right."""
    rows = document.get("statistics") or ()
    places = [key for key in PLACES if finite(row.get(key) for row in rows)]
    if not places:
        return
    said = " and ".join(_IN_CAPTION[key] for key in places)
    yield Picture(
        "scales",
        "Frozen scales",
        f"The frozen scale σ̂ of each norm from the first block to the last, for {said}.",
        lambda: scales(rows, places),
    )


def by_site(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each site that blocks share, in the order in which the sites come."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(site_in_block(str(row["path"])), []).append(row)
    return found


def scales(rows: Rows, places: Sequence[str]) -> Figure:
    """rows: the document's `statistics`. places: keys of PLACES that have values."""
    sites = by_site(rows)
    legend = -(-len(sites) // 2)
    figure = new_figure(0.8 + 2.3 * len(places) + 0.28 * legend)
    panels = figure.subplots(len(places), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    blocks = _blocks(rows)
    for axes, key in zip(panels, places, strict=True):
        _panel(axes, sites, key, blocks)
        axes.set_title(PLACES[key])
        scale_y(axes, finite(row.get(key) for row in rows for key in places))
    panels[-1].set_xlabel("block")
    block_ticks(panels[-1], blocks)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2)
    return figure


def _blocks(rows: Rows) -> int:
    numbers = [block_number(str(row["path"])) for row in rows]
    return max((number for number in numbers if number is not None), default=-1) + 1


def _panel(axes: Axes, sites: Mapping[str, Rows], key: str, blocks: int) -> None:
    """Norms outside of the blocks stand where the next block would."""
    for order, (site, rows) in enumerate(sites.items()):
        at = [block_number(str(row["path"])) for row in rows]
        places = [blocks if number is None else number for number in at]
        values = [drawable(row.get(key)) for row in rows]
        points(axes, places, values, nth(order), label=shortened(site, _NAME), gid=f"{key}:{site}")
