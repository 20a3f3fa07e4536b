"""From arguments to an exit code: every error of every command is reported here."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import typer

from normsurgery.cli import console
from normsurgery.cli.interrupt import INTERRUPTED, InterruptedByUserError
from normsurgery.cli.usage import usage_error
from normsurgery.errors import ResourceError, SurgeryError

# Typer's own Click has no public name for "the user typed something wrong".
_BadUsage: type[Exception] = typer.BadParameter.__mro__[1]
_LIBRARIES_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
_FLAGS = re.compile(r"-[fn]*j[fnj]*")  # letters that take no value, -j among them
# Idle OpenMP threads that spin take the cores from whoever works: beside one other process on two
# cores, a prune of the shipped GPT-2 took 147 s of CPU with them and 11 s without.
_PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


class BugError(SurgeryError):
    """Anything that we did not foresee."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code is the README's."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    with _quiet_libraries(), _sigterm_as_interrupt():
        return _run(given, as_json=_wants_json(options), traceback="--traceback" in options)


def _wants_json(options: Sequence[str]) -> bool:
    """--json, or its letter, alone or among others: `-nj`."""
    return "--json" in options or any(_FLAGS.fullmatch(word) for word in options)


def _run(arguments: list[str], *, as_json: bool, traceback: bool) -> int:
    from normsurgery.cli.app import app

    try:
        code = app(args=arguments, prog_name="normsurgery", standalone_mode=False)
        if code != INTERRUPTED:
            return code or 0
        error: SurgeryError = InterruptedByUserError("interrupted")
    except (KeyboardInterrupt, typer.Abort):
        error = InterruptedByUserError("interrupted")
    except Exception as raised:
        error = _explained(raised)
    return console.fail(error, as_json=as_json, traceback=traceback)


def _explained(raised: Exception) -> SurgeryError:
    """The error to report for an exception, with the exception as its cause."""
    if isinstance(raised, SurgeryError):
        return raised
    error: SurgeryError
    if isinstance(raised, _BadUsage):
        error = usage_error(raised)
    elif isinstance(raised, MemoryError) or type(raised).__name__ == "OutOfMemoryError":
        error = ResourceError(f"out of memory: {raised}", "--device cpu, or a smaller --dtype")
    elif isinstance(raised, OSError) and raised.errno in (errno.ENOSPC, errno.EDQUOT):
        error = ResourceError(f"disk full: {raised}", "free some space, then run it again")
    else:
        error = BugError(
            f"{type(raised).__name__}: {raised}",
            "this is a bug in normsurgery: please report it with the output of --traceback and of "
            "normsurgery doctor",
        )
    error.__cause__ = raised
    return error


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Our report says it all; what the user sets explicitly stays."""
    for name, value in {**_LIBRARIES_QUIET, **_PATIENT_THREADS}.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM leaves as Ctrl-C does: every `finally` runs, and staging is cleaned."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
