"""How an API function tells its caller how far it is, without knowing what shows it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

Unit = Literal["bytes", "tokens", "steps"]


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


class Silent:
    """Shows nothing: what `progress=None` means."""

    def task(
        self, description: str, total: int | None, unit: Unit
    ) -> AbstractContextManager[Advance]:
        return nullcontext(_ignore)


def _ignore(n: int, note: str = "") -> None:
    return None
