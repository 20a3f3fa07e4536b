"""Ctrl-C and SIGTERM: the exit code, and how to go on where that is possible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from normsurgery.errors import SurgeryError

INTERRUPTED = 130


class InterruptedByUserError(SurgeryError):
    """Ctrl-C or SIGTERM."""

    exit_code = INTERRUPTED


@contextmanager
def resumable(hint: str) -> Iterator[None]:
    """What runs inside can go on later; `hint` says how."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedByUserError("interrupted", hint) from None
