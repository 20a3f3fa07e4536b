"""An interrupted calibration goes on after the last block that was finished.

What a pass knows is saved after every block in a work directory, under a fingerprint of all that
the numbers depend on; a directory with another fingerprint is started anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from normsurgery.calibrate.distributed import Processes
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UsageError

_FINGERPRINT = "fingerprint.json"


def fingerprint(checkpoint: Checkpoint, rows: TextRows, **parameters: Any) -> str:
    """A hash of the weight files (size, time), config.json, the ids, and the parameters.

    parameters: whatever else the numbers depend on; JSON values.
    """
    files = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in checkpoint.weight_files
    ]
    text = hashlib.sha256(rows.ids.contiguous().numpy().tobytes())
    text.update(rows.mask.contiguous().numpy().tobytes())
    known = {
        "files": files,
        "config": hashlib.sha256(checkpoint.source_config).hexdigest(),
        "rows": [*rows.ids.shape, text.hexdigest()],
        "parameters": parameters,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


class Work:
    """A directory with the states of unfinished passes.

    Raises UsageError where `directory` holds something that is not one of ours.
    """

    def __init__(
        self, directory: Path, fingerprint: str, processes: Processes | None = None
    ) -> None:
        self.directory, self.processes = directory, processes or Processes()
        self.fingerprint = {"sha256": fingerprint, "processes": self.processes.count}
        if self.processes.rank == 0:
            self._claim()
        self.processes.wait()

    def _claim(self) -> None:
        mark = self.directory / _FINGERPRINT
        if self.directory.exists() and not mark.is_file() and any(self.directory.iterdir()):
            raise UsageError(
                f"{self.directory} is not a directory of ours", "name another, or remove it"
            )
        if mark.is_file() and mark.read_text(encoding="utf-8") != json.dumps(self.fingerprint):
            shutil.rmtree(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps(self.fingerprint), encoding="utf-8")

    def part(self, name: str) -> WorkPart:
        """The place of one pass (such as "windows-3")."""
        return WorkPart(self, name)

    def finish(self) -> None:
        """All is done: remove the directory."""
        self.processes.wait()
        if self.processes.rank == 0:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.processes.wait()


@dataclass(frozen=True)
class WorkPart:
    """One pass in a work directory: its last finished step, and what it knew then."""

    work: Work
    name: str

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """(steps finished, state) where all processes were last; None where nothing was saved."""
        everyone = self.work.processes.gathered(sorted(self._files()))
        common = set(everyone[0]).intersection(*everyone[1:])
        if not common:
            return None
        step = max(common)
        path = self._files()[step]
        # mapped: a batch is read when it is asked for
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return step, state

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep `state` (tensors, numbers, lists and dictionaries of them) after `step` steps.

        The step before stays until every process has saved this one.
        """
        path = self.work.directory / f"{self.name}.{self.work.processes.rank}.{step}.pt"
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)
        self.work.processes.wait()
        for other, old in self._files().items():
            if other != step:
                old.unlink()

    def _files(self) -> dict[int, Path]:
        pattern = f"{self.name}.{self.work.processes.rank}.*.pt"
        return {int(path.name.split(".")[-2]): path for path in self.work.directory.glob(pattern)}
