"""Recipes: a YAML file that names a source, the steps to take, and an output.

The schema is small and closed: an unknown key is refused with the nearest one that exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from normsurgery.errors import UsageError
from normsurgery.nearest import choices_hint
from normsurgery.recipe_file import override, read_values
from normsurgery.recipe_schema import SURGERIES, TOP, VERIFY, Keys, Types

_WORDS: dict[Types, str] = {
    (str,): "text",
    (bool,): "true or false",
    (int,): "a whole number",
    (int, float): "a number",
    (str, int): "text or a whole number",
    (list,): "a list",
    (str, list): "text or a list",
    (bool, dict): "true or false or keys",
}
_OUTSIDE = ("source", "steps", "output")


@dataclass(frozen=True)
class RecipeStep:
    """One surgery with the options that the recipe gives it."""

    surgery: str
    options: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a recipe."""
        return {"surgery": self.surgery, **self.options}

    def settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Of the run's settings those that this surgery takes: its own text wins."""
        own = "data" in SURGERIES[self.surgery].keys
        return {key: value for key, value in settings.items() if not (own and key == "data")}


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been checked. settings: of the run, for every step."""

    source: str
    output: str
    steps: tuple[RecipeStep, ...]
    settings: Mapping[str, Any]

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the run opens; what a step makes for the next one is not among them."""
        found = [self.source]
        for step in self.steps:
            teacher = step.options.get("teacher")  # of remove_ln it is a role, not a model
            if teacher is not None and "teacher" not in SURGERIES[step.surgery].choices:
                found.append(teacher)
        return tuple(dict.fromkeys(found))

    @property
    def trusts_code(self) -> bool:
        return bool(self.settings.get("trust_remote_code", False))

    @property
    def allows_pickle(self) -> bool:
        return bool(self.settings.get("allow_pickle", False))

    def to_dict(self) -> dict[str, Any]:
        """The recipe, as a document shows it."""
        steps = [step.to_dict() for step in self.steps]
        return {"source": self.source, "steps": steps, "output": self.output, **self.settings}


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, checked, with `overrides` applied first.

    A result's surgery.json is a recipe without an output. Raises UsageError for anything wrong.
    """
    values = read_values(path)
    for change in overrides:
        override(values, change)
    top = _checked(values, TOP, str(path))
    for key in _OUTSIDE:
        if key not in top:
            raise UsageError(f"{path}: {key} is missing", f"add `{key}:` or --set {key}=…")
    if not top["steps"]:
        raise UsageError("0 steps: a recipe takes at least one", "steps: [{surgery: …}]")
    steps = tuple(_step(step, place) for place, step in enumerate(top["steps"]))
    _check_together(steps)
    settings = {key: value for key, value in top.items() if key not in _OUTSIDE}
    settings |= _verification(settings.pop("verify", True), steps)
    return Recipe(top["source"], top["output"], steps, settings)


def _step(step: Any, place: int) -> RecipeStep:
    where = f"steps.{place}"
    if not isinstance(step, dict) or not isinstance(step.get("surgery"), str):
        raise UsageError(f"{where} names no surgery", f"surgery: {' or '.join(SURGERIES)}")
    options = dict(step)
    surgery = options.pop("surgery")
    if surgery not in SURGERIES:
        raise UsageError(f"{where}: unknown surgery {surgery!r}", choices_hint(surgery, SURGERIES))
    schema = SURGERIES[surgery]
    checked = _checked(options, schema.keys, where, schema.choices)
    for key in schema.needed:
        if key not in checked and not (place and key == "teacher"):  # a later step's: the source
            raise UsageError(f"{where}: {key} is missing", f"add `{key}:` or --set {where}.{key}=…")
    return RecipeStep(surgery, checked)


def _check_together(steps: Sequence[RecipeStep]) -> None:
    """Raise UsageError for what makes sense in a recipe of one step only."""
    if len(steps) == 1:
        return
    for place, step in enumerate(steps):
        if step.options.get("resume"):
            raise UsageError(
                f"steps.{place}: resume is for a recipe of one step: what several steps make on "
                "the way is removed when they stop",
                "split the recipe, one step in each",
            )
        chosen = [step.options.get(key) for key in ("finetune", "one_shot")]
        if step.surgery == "remove_ln" and not any(chosen):
            raise UsageError(
                f"steps.{place}: remove_ln writes nothing without finetune or one_shot",
                "finetune: true",
            )


def _verification(given: bool | dict[str, Any], steps: Sequence[RecipeStep]) -> dict[str, Any]:
    """`verify: false`, `verify: true`, or a mapping of how."""
    if isinstance(given, bool):
        return {"verify": given}
    own = [step.surgery for step in steps if "data" in SURGERIES[step.surgery].keys]
    if given.get("data") is not None and len(own) == len(steps):
        raise UsageError(
            f"verify: data is not for {own[0]}, which has a text of its own",
            "move it to the step: steps.0.data",
        )
    return {"verify": True, **_checked(given, VERIFY, "verify")}


def _checked(
    values: Mapping[Any, Any],
    schema: Keys,
    where: str,
    choices: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The values that are not None; UsageError for an unknown key, a wrong type or choice."""
    for key, value in values.items():
        if key not in schema:
            raise UsageError(f"{where}: unknown key {key!r}", choices_hint(str(key), schema))
        if value is not None and type(value) not in schema[key]:
            wanted = _WORDS[schema[key]]
            raise UsageError(f"{where}: {key} is {value!r}, wanted {wanted}", f"{key}: {wanted}")
        if value is not None and key in choices and value not in choices[key]:
            raise UsageError(f"{where}: {key} is {value!r}", f"one of: {', '.join(choices[key])}")
    return {str(key): value for key, value in values.items() if value is not None}
