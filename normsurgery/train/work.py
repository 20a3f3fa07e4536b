"""The directory beside the output in which an interrupted run waits to be resumed.

It holds the Trainer's checkpoints, and `run.json`, which says what the run was: a run is resumed
by the same run only.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normsurgery.errors import UsageError

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_LAST_WRITTEN = "trainer_state.json"


def work_directory(output: Path, command: str) -> Path:
    """`.OUT.COMMAND` beside the output, such as `.out.heal`."""
    return output.with_name(f".{output.name}.{command}")


def checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """(step, path) of each checkpoint that was written to its end, the oldest first."""
    return sorted(
        (int(match[1]), path)
        for path in (directory.iterdir() if directory.is_dir() else ())
        if (match := _CHECKPOINT.fullmatch(path.name)) and (path / _LAST_WRITTEN).is_file()
    )


def last_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that was written to its end, None where there is none."""
    found = checkpoints(directory)
    return found[-1][1] if found else None


def has_progress(directory: Path) -> bool:
    """Whether a run got as far as a checkpoint, in the directory or in one of its own."""
    inside = directory.iterdir() if directory.is_dir() else ()
    return any(last_checkpoint(one) is not None for one in (directory, *inside))


def check_run(directory: Path, run: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Whether `run` may use the directory. Touches nothing.

    Raises UsageError where an interrupted run waits there and neither `resume` nor `overwrite` says
    what to do with it, or where it is to be resumed and was another run.
    """
    if not has_progress(directory) or (overwrite and not resume):
        return
    if not resume:
        raise UsageError(
            f"an interrupted run waits in {directory.name}",
            "--resume goes on with it, --overwrite starts again",
        )
    try:
        before = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    now = json.loads(json.dumps(run))
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        raise UsageError(
            f"the interrupted run in {directory.name} had another {', '.join(sorted(differing))}",
            "give the same options again, or leave --resume out and pass --overwrite",
        )


def begin_run(directory: Path, run: Mapping[str, Any], *, resume: bool) -> None:
    """Make the directory ready: what an earlier run left goes, unless it is resumed."""
    if resume:
        return
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def end_run(directory: Path) -> None:
    """The result is in place: nothing is left to resume."""
    shutil.rmtree(directory, ignore_errors=True)
