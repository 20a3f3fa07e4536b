"""A name for a result, from the model's name and what is done to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ENDINGS = {
    "arrange": "arranged",
    "convert": "rmsnorm",
    "fold": "folded",
    "fold-bn": "nobn",
    "heal": "healed",
    "prune": "pruned",
    "remove-ln": "noln",
}


def output_name(command: str, model: str, options: Mapping[str, Any]) -> str:
    """`openai-community/gpt2@main` converted → `gpt2-rmsnorm`; a name that is free where we are.

    options: those of the command, by their names in Python; what was not given may be left out.
    """
    name = f"{_short(model)}-{_ending(command, options)}"
    inside = Path(model).resolve() if Path(model).is_dir() else None
    if inside is not None and Path.cwd().is_relative_to(inside):  # a result lies apart from it
        name = os.path.relpath(inside.parent / name)
    number = 2
    free = name
    while os.path.lexists(free):
        free, number = f"{name}-{number}", number + 1
    return free


def _short(model: str) -> str:
    """The last part of an id or a path; `.` and `..` by the name that they stand for."""
    path = Path(model)
    if path.is_dir():
        return path.resolve().name or "model"
    return Path(model.partition("@")[0]).name or "model"


def _ending(command: str, options: Mapping[str, Any]) -> str:
    if command == "convert":
        return str(options.get("to") or _ENDINGS[command])
    if command == "fold":
        what = str(options.get("what") or "")
        for word, ending in (("rotate", "rotated"), ("recalibrate", "recalibrated")):
            if word in what:
                return ending
    return _ENDINGS.get(command, command)
