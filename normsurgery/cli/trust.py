"""Say which code of a checkpoint is about to run, before it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from normsurgery.cli.console import console
from normsurgery.report.text import printable

if TYPE_CHECKING:
    from normsurgery.checkpoint import Checkpoint


def announce_code(*models: str, trusted: bool, allow_pickle: bool) -> None:
    """With --trust-remote-code: name the Python files that each checkpoint brings, on stderr."""
    if not trusted:
        return
    from normsurgery.checkpoint import open_checkpoint

    for model in models:
        files = code_files(open_checkpoint(model, allow_pickle=allow_pickle))
        if files:
            console(stderr=True).print(
                printable(f"trusting the code of {model}: {', '.join(files)}"), soft_wrap=True
            )
    sys.stderr.flush()


def code_files(checkpoint: Checkpoint) -> list[str]:
    """Python files beside the weights, and modules of other repositories that auto_map names."""
    beside = sorted(path.name for path in checkpoint.directory.glob("*.py"))
    return [*beside, *sorted(_elsewhere(checkpoint.config))]


def _elsewhere(config: Mapping[str, Any]) -> set[str]:
    """`owner/name--module.Class` in auto_map is code from another repository."""
    auto_map = config.get("auto_map")
    named = auto_map.values() if isinstance(auto_map, dict) else []
    return {text for value in named for text in _texts(value) if "--" in text}


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        return [value]
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
