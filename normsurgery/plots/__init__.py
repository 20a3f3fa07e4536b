"""Pictures of what a surgery measured, drawn from its document (surgery.json).

`pictures(document)` needs no matplotlib; turning one of them into PNG or SVG does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from normsurgery.plots.kurtosis import kurtosis_pictures
from normsurgery.plots.losses import loss_pictures
from normsurgery.plots.picture import Picture, check_matplotlib
from normsurgery.plots.scales import scale_pictures
from normsurgery.plots.scores import score_pictures
from normsurgery.plots.training import training_pictures

__all__ = ["FOLDER", "Picture", "check_matplotlib", "pictures", "save", "write_pictures"]

FOLDER = "plots"  # below an output
_KINDS = (
    score_pictures, kurtosis_pictures, training_pictures, scale_pictures, loss_pictures
)  # fmt: skip


def pictures(document: Mapping[str, Any]) -> tuple[Picture, ...]:
    """Everything that this document has figures for, in the order of a report; empty for none."""
    return tuple(picture for kind in _KINDS for picture in kind(document))


def write_pictures(document: Mapping[str, Any], directory: str | Path) -> tuple[str, ...]:
    """Write `plots/NAME.png` and `plots/NAME.svg` below a directory; their names, in order.

    The same document gives the same bytes. Raises UsageError where matplotlib is not installed.
    """
    return save(pictures(document), directory)


def save(found: Sequence[Picture], directory: str | Path) -> tuple[str, ...]:
    """Write these pictures like `write_pictures`."""
    if not found:
        return ()
    check_matplotlib()
    folder = Path(directory, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for picture in found:
        (folder / f"{picture.name}.png").write_bytes(picture.png())
        (folder / f"{picture.name}.svg").write_text(picture.svg(), encoding="utf-8")
        written += [f"{FOLDER}/{picture.name}.{form}" for form in ("png", "svg")]
    return tuple(written)
