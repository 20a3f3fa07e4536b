"""How an API function tells its caller how far it is, without knowing what shows it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

Unit = Literal["bytes", "tokens", "steps"]
Telling = Literal["plan", "removal"]


class Advance(Protocol):
    """So many more bytes, tokens or steps are done. note: a figure to show, such as the loss."""

    def __call__(self, n: int, note: str = ...) -> None: ...


class Progress(Protocol):
    """Something that shows tasks.

    `with progress.task("write", total=size, unit="bytes") as advance: advance(len(chunk))`
    """

    def task(
        self, description: str, total: int | None, unit: Unit
    ) -> AbstractContextManager[Advance]:
        """A task that is under way until the context closes. total: None where unknown."""
        ...

    def tell(self, kind: Telling, facts: Mapping[str, Any]) -> None:
        """Something to show while the work goes on.

        "plan": a document's part about what is going to happen. "removal": where a run that removes
        norms is, after each step (`train.removal`'s figures).
        """
        ...


class Silent:
    """Shows nothing: what `progress=None` means."""

    def task(
        self, description: str, total: int | None, unit: Unit
    ) -> AbstractContextManager[Advance]:
        return nullcontext(_ignore)

    def tell(self, kind: Telling, facts: Mapping[str, Any]) -> None:
        return None


def _ignore(n: int, note: str = "") -> None:
    return None
