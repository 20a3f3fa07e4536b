"""A Python that has timm: `make test` puts timm and torchvision into `.venv/timm`.

They stay out of the environment itself, where a torchvision that is built for another torch breaks
the import of transformers' image code. Where timm can be imported as it is, that one is used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]
_BESIDE = Path(sys.prefix, "timm")


def run_with_timm(script: Path, *arguments: str | Path) -> dict[str, Any]:
    """What a script prints as JSON on its last line, in a Python that has timm."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env=_environment(), capture_output=True, text=True, check=False, cwd=_ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def _environment() -> dict[str, str]:
    paths = [str(_ROOT)]
    if _BESIDE.is_dir():
        paths += [str(Path(__file__).with_name("environment")), str(_BESIDE)]
    elif importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not here; `make test` brings it along")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
