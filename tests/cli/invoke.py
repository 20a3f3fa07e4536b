"""Run a command line, in this process with the API replaced or in a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Fake:
    """Stands in for an API function: remembers its arguments, answers with a document."""

    def __init__(self, answer: dict[str, Any] | BaseException) -> None:
        self.answer = answer
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *arguments: Any, **options: Any) -> Fake:
        self.calls.append((arguments, options))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self

    def to_dict(self) -> dict[str, Any]:
        assert isinstance(self.answer, dict)
        return self.answer


def environment(**changes: str) -> dict[str, str]:
    """As a user's, with our package on the path and nothing that forces colour or width."""
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def command(*arguments: str, cwd: Path | None = None, **changes: str) -> Any:
    """Run `python -m normsurgery …` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "normsurgery", *arguments],
        cwd=cwd, env=environment(**changes), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def script(text: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start a Python program that may replace the API before it calls `main`."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        env=environment(), text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip
