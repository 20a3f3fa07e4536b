"""What Tab offers where a word is no choice that Typer knows: models, outputs, lists of words.

The shell waits for it: nothing heavy is imported, and few directories are read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer

from normsurgery.checkup.machine import hub_cache
from normsurgery.choices import FOLD_ORDER
from normsurgery.naming import output_name

FOLDS = (*FOLD_ORDER, "recalibrate")
# Written down a second time, because their home imports torch.
SITES = ("mlp", "attention", "final", "inner")
SCHEDULES = ("auto", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
DEVICES = ("auto", "cpu", "cuda")
_DEEP = 2  # directories below the one that is being typed
_MANY = 100  # entries of a directory that are looked into
_CONFIG = "config.json"


def models(incomplete: str) -> list[str]:
    """Directories with a config.json, at most two levels below what is typed, and cached models."""
    found = [str(path) for path in _model_directories(incomplete)]
    if incomplete.startswith("./"):
        found = [f"./{name}" for name in found]
    cached = [name for name in _cached() if name.startswith(incomplete)]
    return [*found, *cached] or [f"{path}{os.sep}" for path in _directories(incomplete)]


def outputs(context: typer.Context, incomplete: str) -> list[str]:
    """The name that would be proposed, then directories."""
    given = context.params
    named = given.get("model")
    proposed = [output_name(str(context.info_name), str(named), given)] if named else []
    found = [*proposed, *(f"{path}{os.sep}" for path in _directories(incomplete))]
    return [name for name in found if name.startswith(incomplete)]


def word_list(words: Sequence[str]) -> Callable[[str], list[str]]:
    """Completes the last of several words with commas; those that are there are not offered."""

    def offered(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        return [
            f"{before}{comma}{word}"
            for word in words
            if word.startswith(last) and word not in taken
        ]

    return offered


def one_of(words: Sequence[str]) -> Callable[[str], list[str]]:
    """Completes one of some words, where others are allowed too."""

    def offered(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return offered


def _model_directories(incomplete: str) -> Iterator[Path]:
    for path in _directories(incomplete):
        yield from _models_in(path, _DEEP)


def _models_in(path: Path, deep: int) -> Iterator[Path]:
    """The directory if it is a model, else the models in it; a model has no other inside."""
    if (path / _CONFIG).is_file():
        yield path
    elif deep:
        for below in _listed(path):
            yield from _models_in(below, deep - 1)


def _directories(incomplete: str) -> list[Path]:
    """Directories whose path starts with what is typed; hidden ones only where a dot is typed."""
    parent, _, start = incomplete.rpartition("/")
    if incomplete.startswith("/"):
        parent = parent or "/"
    found = _listed(Path(parent), hidden=start.startswith("."))
    return [path for path in found if path.name.startswith(start)]


def _listed(path: Path, *, hidden: bool = False) -> list[Path]:
    try:
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    except OSError:
        return []
    return [path / name for name in names if hidden or not name.startswith(".")][:_MANY]


def _cached() -> list[str]:
    """`models--openai-community--gpt2` in the Hub's cache → `openai-community/gpt2`."""
    folders = _listed(hub_cache(os.environ))
    names = [path.name.removeprefix("models--") for path in folders if "models--" in path.name]
    return [name.replace("--", "/", 1) for name in names]
