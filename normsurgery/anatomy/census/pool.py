"""Run one function per item in processes of their own: a crash or a hang costs one item."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

Item = TypeVar("Item")


def run_each(
    function: Callable[[Item], Any], items: Sequence[Item], *, jobs: int, timeout: float
) -> Iterator[tuple[Item, Any | None, str, float]]:
    """(item, result, trouble, seconds) in order of completion.

    result is None where the process died or took longer than `timeout` seconds; trouble says which.
    Processes are forked, so what the parent has imported is there already.
    """
    context = multiprocessing.get_context("fork")
    queue = list(reversed(items))
    running: dict[Connection, tuple[Any, Item, float]] = {}
    while queue or running:
        while queue and len(running) < jobs:
            item = queue.pop()
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_answer, args=(function, item, theirs), daemon=True)
            process.start()
            theirs.close()
            running[ours] = (process, item, time.monotonic())
        for connection in wait(list(running), timeout=0.5):
            assert isinstance(connection, Connection)
            process, item, started = running.pop(connection)
            yield item, *_result(connection, process), time.monotonic() - started
        for connection, (process, item, started) in list(running.items()):
            if time.monotonic() - started > timeout:
                process.kill()
                process.join()
                del running[connection]
                yield item, None, f"took longer than {timeout:.0f} s", timeout


def _answer(function: Callable[[Any], Any], item: Any, connection: Connection) -> None:
    connection.send(function(item))
    connection.close()


def _result(connection: Any, process: Any) -> tuple[Any | None, str]:
    try:
        result = connection.recv()
    except EOFError:
        process.join()
        return None, f"its process ended with code {process.exitcode}"
    process.join()
    return result, ""
