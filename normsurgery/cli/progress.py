"""Progress bars on stderr: bytes, tokens or steps, with a rate and an ETA."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from normsurgery.report.numbers import file_size, short_count
from normsurgery.report.progress import Advance, Telling, Unit
from normsurgery.report.removal import LIVE_COLUMNS, live_line, live_row, plan_report
from normsurgery.report.tables import plain_table

_LINES = 20  # how often a run speaks where no terminal shows its table


class Amount(ProgressColumn):
    """`1.2 GB of 3.1 GB · 402 MB/s`."""

    def render(self, task: Task) -> Text:
        unit: Unit | None = task.fields["unit"]
        if unit is None:
            return Text()
        text = amount(int(task.completed), unit)
        if task.total is not None:
            text += f" of {amount(int(task.total), unit)}"
        if task.speed:
            text += f" · {amount(int(task.speed), unit)}/s"
        return Text(text, style="progress.download")


def amount(count: int, unit: Unit) -> str:
    """A count with its unit."""
    return file_size(count) if unit == "bytes" else f"{short_count(count)} {unit}"


class _WithTable(Progress):
    """Bars, and under them a table of the run that is under way."""

    table: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.table is not None:
            yield self.table


class Bars:
    """Implements `report.progress.Progress`; shows nothing where the console is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = 0
        self._bars = _WithTable(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            Amount(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        # Importing torch and proving on a twin take seconds before the first task.
        self._between = self._bars.add_task("working", total=None, unit=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._bars.stop()

    @contextmanager
    def task(self, description: str, total: int | None, unit: Unit) -> Iterator[Advance]:
        """One bar, for as long as the task is under way."""
        bar = self._bars.add_task(description, total=total, unit=unit)
        self._bars.update(self._between, visible=False)

        def advance(n: int, note: str = "") -> None:
            self._bars.advance(bar, n)
            if note:
                self._bars.update(bar, description=f"{description} · {note}")

        try:
            yield advance
        finally:
            self._bars.remove_task(bar)
            self._bars.update(self._between, visible=True)
            self._bars.table = None

    def tell(self, kind: Telling, facts: Mapping[str, Any]) -> None:
        """A plan stays on stderr; a run's figures are a live table, or a line now and then."""
        if kind == "plan":
            for part in plan_report(facts):
                self._console.print(part)
            return
        if self._console.is_terminal:
            columns = range(len(LIVE_COLUMNS))
            self._bars.table = plain_table(LIVE_COLUMNS, [live_row(facts)], whole=columns)
            return
        due = facts["step"] * _LINES // facts["steps"]
        if due > self._said or facts["step"] == facts["steps"]:
            self._console.print(live_line(facts), soft_wrap=True)
        self._said = due
