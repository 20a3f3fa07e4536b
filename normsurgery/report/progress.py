"""How an API function tells its caller how far it is, without knowing what shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

Unit = Literal["bytes", "tokens", "steps"]
Advance = Callable[[int], None]


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


def _ignore(n: int) -> None:
    return None
