"""What is wrong with a recipe: pydantic's errors as one line, with the nearest valid name."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from normsurgery.errors import UsageError
from normsurgery.nearest import choices_hint
from normsurgery.recipe.schema import SURGERIES, Keys, Push, RecipeKeys, Verify

_WORDS = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "greater_than_equal": "{ge} or more",
}
_UNKNOWN = ("extra_forbidden", "invalid_key")
_SHORT: dict[str, type[Keys]] = {
    "verify": Verify,
    "push": Push,
}  # may stand for one word, or hold keys


@dataclass
class _Place:
    """What is wrong at one key. path: `("steps", 0, "to")`; model: whose keys stand there."""

    path: tuple[int | str, ...]
    model: type[Keys]
    errors: list[ErrorDetails] = field(default_factory=list)

    @property
    def kinds(self) -> set[str]:
        return {error["type"] for error in self.errors}

    @property
    def rank(self) -> int:
        """An unknown key first: it may be the one that is missing."""
        return 0 if self.kinds & {*_UNKNOWN} else 2 if "missing" in self.kinds else 1


def usage_error(raised: ValidationError, values: Mapping[str, Any], name: str) -> UsageError:
    """The first error of a recipe, and how many there are.

    values: the recipe as it was read. name: of its file, for keys outside the steps.
    """
    places: dict[tuple[int | str, ...], _Place] = {}
    for error in raised.errors(include_url=False):
        path, model = _place(error["loc"])
        places.setdefault(path, _Place(path, model)).errors.append(error)
    first, *more = sorted(places.values(), key=lambda place: place.rank)
    message, hint = _said(first, values, name)
    if more:
        message = f"{message} (the first of {len(places)} errors)"
    return UsageError(message, hint)


def _place(loc: Sequence[int | str]) -> tuple[tuple[int | str, ...], type[Keys]]:
    """The way to a key in the file, without the names of pydantic's alternatives."""
    if loc[0] == "steps" and len(loc) > 2:
        return ("steps", loc[1], *loc[3:4]), SURGERIES[str(loc[2])]
    if loc[0] in _SHORT:
        return (loc[0], *loc[2:3]), _SHORT[str(loc[0])]
    return tuple(loc[:2] if loc[0] == "steps" else loc[:1]), RecipeKeys


def _said(place: _Place, values: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Message and hint."""
    *way, key = place.path
    where = ".".join(map(str, way)) or name
    if place.kinds & {"union_tag_invalid", "union_tag_not_found", "model_attributes_type"}:
        return _surgery(f"steps.{key}", place.errors[0]["input"])
    if "too_short" in place.kinds:
        return "0 steps: a recipe takes at least one", "steps: [{surgery: …}]"
    if place.kinds & {*_UNKNOWN}:
        known = [one for one in place.model.in_order() if one != "surgery"]
        return f"{where}: unknown key {_short(key)}", choices_hint(str(key), known)
    if "missing" in place.kinds:
        dotted = ".".join(map(str, place.path))
        return f"{where}: {key} is missing", f"add `{key}:` or --set {dotted}=…"
    given = _found(values, place.path)
    if "literal_error" in place.kinds:
        words = words_of(place.model, str(key))
        return f"{where}: {key} is {_short(given)}", choices_hint(str(given), words)
    wanted = _wanted(place)
    return f"{where}: {key} is {_short(given)}, wanted {wanted}", f"{key}: {wanted}"


def _surgery(where: str, step: Any) -> tuple[str, str]:
    named = step.get("surgery") if isinstance(step, dict) else None
    if not isinstance(named, str):
        return f"{where} names no surgery", f"surgery: {' or '.join(SURGERIES)}"
    return f"{where}: unknown surgery {_short(named)}", choices_hint(named, SURGERIES)


def _wanted(place: _Place) -> str:
    """`text or a list of text`."""
    found = []
    for error in place.errors:
        known = _WORDS.get(error["type"])
        word = known.format(**error.get("ctx", {})) if known else error["msg"]
        found.append(f"a list of {word}" if isinstance(error["loc"][-1], int) else word)
    if len(place.path) == 1 and place.path[0] in _SHORT:
        found.append("keys")
    return " or ".join(dict.fromkeys(found))


def words_of(model: type[Keys], key: str) -> tuple[str, ...]:
    """The words that a key takes; none where it takes any."""
    annotation = model.model_fields[key].annotation
    options: Iterable[Any] = (annotation, *get_args(annotation))
    return next((get_args(one) for one in options if get_origin(one) is Literal), ())


def _found(values: Any, path: Sequence[int | str]) -> Any:
    for part in path:
        values = values[part]
    return values


def _short(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a very large number"
