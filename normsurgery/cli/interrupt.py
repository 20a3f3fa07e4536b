"""Ctrl-C and SIGTERM: the exit code, what is left on the disk, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from normsurgery.errors import SurgeryError
from normsurgery.report.numbers import file_size

INTERRUPTED = 130


class InterruptedByUserError(SurgeryError):
    """Ctrl-C or SIGTERM."""

    exit_code = INTERRUPTED


@dataclass(frozen=True)
class Kept:
    """What a command keeps beside its output to go on with: `.OUT.ENDING`.

    saved: a file in it, or in a directory of it, that only finished work has (a pattern).
    how: what goes on, where there is such a file.
    """

    ending: str
    saved: str
    how: str

    def directory(self, output: Path) -> Path:
        """Where it would lie."""
        return output.with_name(f".{output.name}.{self.ending}")


MEASURED = Kept(
    "calibration", "*.pt", "the same command goes on after the last block that was measured"
)
HEALED = Kept(
    "heal",
    "checkpoint-*/trainer_state.json",
    "the same command with --resume goes on after the last saved step",
)
REMOVED = Kept("remove-ln", HEALED.saved, HEALED.how)
_BY_SURGERY = {"prune": MEASURED, "heal": HEALED, "remove_ln": REMOVED}


def kept_by_recipe(surgeries: Sequence[str]) -> Kept | None:
    """What a recipe of these steps keeps: several work in a directory that goes with them."""
    kept = _BY_SURGERY.get(surgeries[0]) if len(surgeries) == 1 else None
    if kept is None:
        return None
    return replace(kept, how=kept.how.replace("--resume", "--set steps.0.resume=true"))


@contextmanager
def resumable(hint: str) -> Iterator[None]:
    """What runs inside leaves nothing on this disk and can go on later; `hint` says how."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedByUserError("interrupted", hint) from None


@contextmanager
def interruptible(output: Path, kept: Kept | None = None, then: str = "") -> Iterator[None]:
    """What runs inside writes `output`; where it is interrupted, the error says what is left.

    By then every `finally` has run: the staging directory is gone. then: the command that does what
    was still to do once `output` had moved into place.
    """
    before = _identity(output)
    try:
        yield
    except KeyboardInterrupt:
        written = _identity(output) != before
        error = left(output, kept, existed=before is not None, written=written)
        if written and then:
            error = InterruptedByUserError(error.message, then)
        raise error from None


def left(
    output: Path, kept: Kept | None, *, existed: bool, written: bool
) -> InterruptedByUserError:
    """The error of an interrupt, from what is on the disk now."""
    said = "nothing was written"
    if written:
        said = f"{output} is complete: it had moved into place"
    elif existed:
        said = f"{output} is as it was"
    directory = kept.directory(output) if kept is not None else None
    if kept is None or directory is None or not directory.is_dir():
        hint = "" if written else "the same command starts again"
        return InterruptedByUserError(f"interrupted; {said}", hint)
    size = file_size(sum(x.stat().st_size for x in directory.rglob("*") if x.is_file()))
    remove = f"rm -r {shlex.quote(str(directory))}"
    if any(directory.rglob(kept.saved)):
        message = f"interrupted; {said}; what is done so far is kept in {directory} ({size})"
        return InterruptedByUserError(message, f"{kept.how}; or give it up: {remove}")
    message = f"interrupted; {said}; nothing is finished yet in {directory} ({size})"
    return InterruptedByUserError(message, f"the same command starts again; or {remove}")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which directory stands there: a new one in its place is another."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
