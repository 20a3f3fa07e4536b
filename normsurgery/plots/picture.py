"""A picture and its style: sized for a phone, the same bytes on every run, no display needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

from normsurgery.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 5.5  # inches; a phone shows it 360 pixels wide, where LETTERS are 12 pixels high
LETTERS = 13.0  # points
_DPI = 160
# Okabe and Ito's colours, which colour-blind people tell apart.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
RED, SKY, BLACK, GREY = "#D55E00", "#56B4E9", "#000000", "#666666"
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib's own: no font of the machine
    "font.size": LETTERS,
    "axes.titlesize": LETTERS,
    "axes.titlelocation": "left",
    "axes.labelsize": LETTERS,
    "xtick.labelsize": LETTERS - 1,
    "ytick.labelsize": LETTERS - 1,
    "legend.fontsize": LETTERS - 1,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 7.0,
    "hatch.linewidth": 0.8,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a `$` in a name is a `$`
    "svg.fonttype": "path",
    "svg.hashsalt": "normsurgery",
}
# What matplotlib would write by itself: a date, and its version.
_SILENT = {"Date": None, "Creator": None}


@dataclass(frozen=True)
class Picture:
    """name: of its files. caption: one sentence that says what is seen, also the text for people
    who do not see it. draw: makes the Figure; called within `styled`."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure] = field(repr=False, compare=False)

    def png(self) -> bytes:
        """Raises UsageError where matplotlib is not installed."""
        return self._saved("png", dpi=_DPI, metadata={"Software": None})

    def svg(self) -> str:
        """An SVG file whose letters are outlines. Raises UsageError like `png`."""
        return self._saved("svg", metadata={**_SILENT, "Title": self.title}).decode("utf-8")

    def _saved(self, form: str, **options: Any) -> bytes:
        with styled():
            written = BytesIO()
            self.draw().savefig(written, format=form, **options)
        return written.getvalue()


def check_matplotlib() -> None:
    """Raise UsageError where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UsageError("pictures need matplotlib", "pip install 'normsurgery[plots]'") from None


@contextmanager
def styled() -> Iterator[None]:
    """Our style, whatever a person's matplotlibrc says."""
    check_matplotlib()
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(_STYLE)
        yield


def new_figure(height: float) -> Figure:
    """A Figure of WIDTH × height inches that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
