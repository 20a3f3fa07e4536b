"""What a surgery was asked, written down as the recipe that asks the same again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from normsurgery.checkpoint import Checkpoint
from normsurgery.recipe import options_of

P = ParamSpec("P")
R = TypeVar("R")

_ASKED: ContextVar[Mapping[str, Any] | None] = ContextVar("asked", default=None)
# What may be a file here: papers hold no local path, and name a file by its name alone.
_FILES = ("data", "other_data", "example", "reference", "schedule", "teacher")


def recorded(surgery: Callable[P, R]) -> Callable[P, R]:
    """The surgery, with its arguments kept for `resolved_recipe` while it runs."""
    signature = inspect.signature(surgery)

    @wraps(surgery)
    def asked(*arguments: P.args, **options: P.kwargs) -> R:
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        token = _ASKED.set({"surgery": surgery.__name__, **bound.arguments})
        try:
            return surgery(*arguments, **options)
        finally:
            _ASKED.reset(token)

    return asked


def resolved_recipe(source: Checkpoint, found: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of the surgery that runs: every option with its value, and the source's commit.

    found: what the surgery says of itself, `{"source", "steps": [step]}`. Its values stand where
    an option was left open and it chose (`method`, `stack`), and where they hide a path.
    Outside of a surgery it is `found` itself.
    """
    asked = _ASKED.get()
    if asked is None:
        return dict(found)
    surgery = asked["surgery"]
    chosen = found["steps"][0]
    step = {key: _plain(key, asked[key]) for key in options_of(surgery)}
    open_ = [key for key in step if step[key] is None or key in _FILES]
    step |= {key: chosen[key] for key in open_ if chosen.get(key) is not None}
    if step.get("epochs") is not None:  # `steps` is then what they come to, not an option
        step["steps"] = asked["steps"]
    if "what" in chosen:
        step["what"] = list(chosen["what"])
    return {
        "source": pinned(source),
        "steps": [{"surgery": surgery, **step}],
        "verify": _verify(surgery, asked),
        "device": asked["device"],
        "seed": asked["seed"],
    }


def pinned(checkpoint: Checkpoint) -> str:
    """`owner/name@commit` of the Hub, or a directory's name."""
    revision = checkpoint.revision
    return f"{checkpoint.model_id}@{revision}" if revision else checkpoint.model_id


def _verify(surgery: str, asked: Mapping[str, Any]) -> bool | dict[str, Any]:
    """Whether, and on which text, as a recipe says it."""
    data = None if "data" in options_of(surgery) else asked.get("data")
    if not asked["verify"] or data is None:
        return bool(asked["verify"])
    return {"data": _plain("data", data)}


def _plain(key: str, value: Any) -> Any:
    """As YAML and JSON hold it."""
    if key in _FILES and value is not None:
        return Path(value).name if Path(value).exists() else str(value)
    return list(value) if isinstance(value, (list, tuple)) else value
