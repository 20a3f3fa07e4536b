"""What was found out about each run of blocks that could be dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from normsurgery.errors import UsageError

METHODS = ("angular", "influence", "fit", "loss", "last", "taylor")


@dataclass(frozen=True)
class Window:
    """blocks: source blocks that would be dropped. scores: method → number; less is better.

    None where a score does not exist: no block stands before the first, so nothing can be fitted.
    """

    start: int
    blocks: tuple[int, ...]
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class Scores:
    """Every window of one size, in order. tokens: that scores of the whole text looked at.

    sampled: tokens that `angular` and `fit` looked at. loss: of the model with nothing dropped,
    in nats per token (None unless asked for). notes: what should be said beside the numbers.
    """

    size: int
    windows: tuple[Window, ...]
    tokens: int = 0
    sampled: int = 0
    loss: float | None = None
    notes: tuple[str, ...] = field(default=())

    def best(self, method: str) -> tuple[int, ...]:
        """The blocks that this method would drop (of equals the later ones).

        Raises UsageError where it was not computed, or exists for no window.
        """
        known = [
            (score, -window.start, window.blocks)
            for window in self.windows
            if (score := window.scores.get(method)) is not None
        ]
        if not known:
            raise UsageError(
                f"there is no {method} score of {self.size} blocks"
                + "".join(f"; {note}" for note in self.notes),
                f"methods: {', '.join(METHODS)}",
            )
        return min(known)[2]

    def to_list(self) -> list[dict[str, Any]]:
        """[{"blocks": […], METHOD: NUMBER, …}], one entry a window."""
        return [{"blocks": list(window.blocks), **window.scores} for window in self.windows]


def table(
    order: Sequence[int], size: int, columns: Mapping[str, Sequence[float | None]], **facts: Any
) -> Scores:
    """Scores from a column of numbers per method, one entry for each window's start."""
    windows = tuple(
        Window(
            start,
            tuple(order[start : start + size]),
            {method: column[start] for method, column in columns.items()},
        )
        for start in range(len(order) - size + 1)
    )
    return Scores(size, windows, **facts)
