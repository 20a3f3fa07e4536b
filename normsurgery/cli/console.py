"""The one sink: results to stdout, progress and diagnostics to stderr, JSON or tables."""

from __future__ import annotations

import json
import os
import sys
import traceback as tracebacks
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import typer

from normsurgery.errors import SurgeryError, UsageError, VerificationError

if TYPE_CHECKING:
    from rich.console import Console

    from normsurgery.report.next_steps import Asked
    from normsurgery.report.progress import Progress


@contextmanager
def working() -> Iterator[Progress]:
    """While the API works: progress on stderr, and whatever a library prints goes there too."""
    from normsurgery.cli.progress import Bars

    with redirect_stdout(sys.stderr), Bars(console(stderr=True)) as bars:
        yield bars


def show(document: dict[str, Any], *, as_json: bool, asked: Asked | None = None) -> None:
    """Print a result's document, and after a report what to do next with what was `asked`.

    A verdict of fail ends the command with its exit code.

    So does a preview, which is not what a person who named an output asked for: the error goes to
    stderr, and stdout has the document alone.
    """
    write(_json(document) if as_json else _report(document, asked))
    if document.get("preview"):
        error = UsageError("nothing was written", "add --finetune or --one-shot")
        raise typer.Exit(fail(error, as_json=False, traceback=False))
    if (document.get("verification") or {}).get("verdict") == "fail":
        raise typer.Exit(VerificationError.exit_code)


def _report(document: dict[str, Any], asked: Asked | None) -> str:
    from normsurgery.report import render
    from normsurgery.report.next_steps import next_lines
    from normsurgery.report.tables import code, section

    lines = next_lines(document, asked) if asked is not None else []
    after = [*section("Next"), *code(lines)] if lines else []
    out = console()
    with out.capture() as captured:
        for part in [*render(document), *after]:
            out.print(part, soft_wrap=bool(getattr(part, "no_wrap", False)))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _json(document: dict[str, Any]) -> str:
    from normsurgery.report.text import json_safe

    return json.dumps(json_safe(document), indent=2, allow_nan=False)


def write(text: str) -> None:
    """A piece of text and a newline on stdout; a reader that has gone is not our concern."""
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Point stdout to nowhere, or Python complains when it flushes at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def fail(error: SurgeryError, *, as_json: bool, traceback: bool) -> int:
    """Report an error in one line and one hint; return its exit code."""
    if traceback:
        tracebacks.print_exception(error.__cause__ or error, file=sys.stderr)
    if as_json:
        write(json.dumps(error.to_dict(), indent=2))
        return error.exit_code
    err = console(stderr=True)
    err.print("[bold red]error:[/]", _one_line(error.message), markup=True, soft_wrap=True)
    if error.hint:
        err.print("[bold cyan]hint:[/] ", _one_line(error.hint), markup=True, soft_wrap=True)
    return error.exit_code


def _one_line(text: str) -> Any:
    """The text with no line break, no control character and no markup in it."""
    from rich.text import Text

    from normsurgery.report.text import printable

    return Text(printable(" ".join(text.split())))


def console(*, stderr: bool = False) -> Console:
    """A rich console that shows names as they are: no markup, no emoji, no guessed colours."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)
