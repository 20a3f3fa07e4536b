"""Run one function per item in processes of their own: a crash or a hang costs one item."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: its last result, if it gave any; and what cut it short, or ""."""

    item: Item
    result: Result | None
    trouble: str
    seconds: float


@dataclass
class _Running(Generic[Item, Result]):
    process: Any
    item: Item
    started: float
    result: Result | None = None

    def ended(self, trouble: str) -> Outcome[Item, Result]:
        seconds = time.monotonic() - self.started
        return Outcome(self.item, self.result, trouble, seconds)


def run_each(
    function: Callable[[Item], Iterable[Result]],
    items: Sequence[Item],
    *,
    jobs: int,
    timeout: float,
) -> Iterator[Outcome[Item, Result]]:
    """The outcomes in order of completion.

    function: gives ever better results; the last one counts, also where the process dies then or
    takes longer than `timeout` seconds. Processes are forked, so what the parent has imported is
    there already.
    """
    context = multiprocessing.get_context("fork")
    queue = list(reversed(items))
    running: dict[Connection, _Running[Item, Result]] = {}
    while queue or running:
        while queue and len(running) < jobs:
            item = queue.pop()
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_answer, args=(function, item, theirs), daemon=True)
            process.start()
            theirs.close()
            running[ours] = _Running(process, item, time.monotonic())
        for connection in wait(list(running), timeout=0.5):
            assert isinstance(connection, Connection)
            outcome = _heard(connection, running[connection])
            if outcome is not None:
                del running[connection]
                yield outcome
        for connection, run in list(running.items()):
            if time.monotonic() - run.started > timeout:
                run.process.kill()
                run.process.join()
                del running[connection]
                yield run.ended(f"took longer than {timeout:.0f} s")


def _answer(function: Callable[[Any], Iterable[Any]], item: Any, connection: Connection) -> None:
    for result in function(item):
        connection.send(result)
    connection.close()


def _heard(connection: Any, run: _Running[Any, Any]) -> Outcome[Any, Any] | None:
    """Take in what a process has sent; its outcome, if that was the end."""
    try:
        run.result = connection.recv()
    except EOFError:
        run.process.join()
        code = run.process.exitcode
        return run.ended(f"its process ended with code {code}" if code else "")
    return None
