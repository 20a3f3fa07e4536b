"""Recipes: a YAML file that names a source, the steps to take, an output, and where to push it.

What a recipe may say stands in `recipe.schema`. An unknown key is refused with the nearest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery.errors import UsageError
from normsurgery.recipe.file import override, read_values

if TYPE_CHECKING:
    from normsurgery.recipe.schema import Keys, RecipeKeys, Step

_SETTINGS = ("overwrite", "device", "seed", "trust_remote_code", "allow_pickle")
_HOW = ("data", "keep_failed")  # the keys of `verify`


def options_of(surgery: str) -> tuple[str, ...]:
    """The keys that a step of this surgery takes beside `surgery`."""
    from normsurgery.recipe import schema  # pydantic: only what reads a recipe waits for it

    return schema.options_of(surgery)


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
        own = "data" in options_of(self.surgery)
        return {key: value for key, value in settings.items() if not (own and key == "data")}


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been checked.

    settings: of the run, for every step, with what `verify` says among them. push: the options of
    `push` with `to`, the repository; empty where nothing is pushed.
    """

    source: str
    output: str
    steps: tuple[RecipeStep, ...]
    settings: Mapping[str, Any]
    push: Mapping[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the run opens; what a step makes for the next one is not among them."""
        teachers = [one.options.get("teacher") for one in self.steps if one.surgery == "heal"]
        return tuple(dict.fromkeys([self.source, *(one for one in teachers if one is not None)]))

    @property
    def trusts_code(self) -> bool:
        return bool(self.settings.get("trust_remote_code", False))

    @property
    def allows_pickle(self) -> bool:
        return bool(self.settings.get("allow_pickle", False))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as it could stand in a file."""
        how = {key: self.settings[key] for key in _HOW if key in self.settings}
        found = {
            "source": self.source,
            "steps": [step.to_dict() for step in self.steps],
            "verify": how or self.settings.get("verify", True),
            "output": self.output,
            **{key: self.settings[key] for key in _SETTINGS if key in self.settings},
        }
        return {**found, "push": dict(self.push)} if self.push else found


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, checked, with `overrides` applied first.

    A result's surgery.json is a recipe without an output. Raises UsageError for anything wrong.
    """
    values = read_values(path)
    for change in overrides:
        override(values, change)
    return recipe_of(values, str(path))


def recipe_of(values: Mapping[Any, Any], name: str) -> Recipe:
    """The recipe that these values are. name: of the file, for an error.

    Raises UsageError for anything wrong.
    """
    from pydantic import ValidationError

    from normsurgery.recipe.errors import usage_error
    from normsurgery.recipe.schema import RecipeKeys

    try:
        read = RecipeKeys.model_validate(values)
    except ValidationError as raised:
        raise usage_error(raised, values, name) from None
    steps = tuple(_step(step) for step in read.steps)
    _check_together(steps)
    settings = {key: getattr(read, key) for key in _SETTINGS if getattr(read, key) is not None}
    push = {"to": read.push} if isinstance(read.push, str) else _given(read.push)
    recipe = Recipe(read.source, read.output, steps, settings | _verification(read, steps), push)
    _check_push(recipe)
    return recipe


def _step(step: Step) -> RecipeStep:
    given = _given(step)
    options = {key: given[key] for key in options_of(step.surgery) if key in given}
    return RecipeStep(step.surgery, options)


def _given(keys: Keys | None) -> dict[str, Any]:
    return {} if keys is None else keys.model_dump(exclude_none=True)


def _check_together(steps: Sequence[RecipeStep]) -> None:
    """Raise UsageError for steps that make no sense where they stand."""
    if steps[0].surgery == "heal" and "teacher" not in steps[0].options:
        hint = "add `teacher:` or --set steps.0.teacher=…"
        raise UsageError("steps.0: teacher is missing", hint)  # a later step's is the source
    if len(steps) == 1:
        return
    for place, step in enumerate(steps):
        if step.options.get("resume"):
            raise UsageError(
                f"steps.{place}: resume is for a recipe of one step: what several steps make on "
                "the way is removed when they stop",
                "split the recipe, one step in each",
            )
        if _previews(step):
            raise UsageError(
                f"steps.{place}: remove_ln writes nothing without finetune or one_shot",
                "finetune: true",
            )


def _previews(step: RecipeStep) -> bool:
    """Whether it shows what would be, and writes nothing."""
    chosen = [step.options.get(key) for key in ("finetune", "one_shot")]
    return step.surgery == "remove_ln" and not any(chosen)


def _check_push(recipe: Recipe) -> None:
    """Raise UsageError for a push of what the recipe does not write, or does not verify."""
    if not recipe.push:
        return
    if _previews(recipe.steps[0]):
        raise UsageError(
            "push: remove_ln writes nothing without finetune or one_shot", "steps.0.finetune: true"
        )
    if not recipe.settings["verify"] and not recipe.push.get("unverified"):
        raise UsageError(
            "push: a result that is not verified is not pushed",
            "take out `verify: false`; `push: {unverified: true}` pushes it, and the card says so",
        )


def _verification(read: RecipeKeys, steps: Sequence[RecipeStep]) -> dict[str, Any]:
    """`verify: false`, `verify: true`, or a mapping of how."""
    if read.verify is None or isinstance(read.verify, bool):
        return {"verify": read.verify is not False}
    own = [step.surgery for step in steps if "data" in options_of(step.surgery)]
    if read.verify.data is not None and len(own) == len(steps):
        raise UsageError(
            f"verify: data is not for {own[0]}, which has a text of its own",
            "move it to the step: steps.0.data",
        )
    return {"verify": True, **_given(read.verify)}
