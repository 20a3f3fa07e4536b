"""Recipes: a YAML file that names a source, the steps to take, and an output.

The schema is small and closed: an unknown key is refused with the nearest one that exists.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from normsurgery.errors import UsageError
from normsurgery.recipe_schema import SURGERIES, TOP, VERIFY, Keys, Types

if TYPE_CHECKING:
    from normsurgery.report.progress import Progress

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


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been checked. step: the surgery's options; settings: those of the run."""

    source: str
    output: str
    surgery: str
    step: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the run opens."""
        teacher = self.step.get("teacher")  # of remove_ln it is a role, not a model
        if teacher is None or "teacher" in SURGERIES[self.surgery].choices:
            return (self.source,)
        return (self.source, teacher)

    @property
    def trusts_code(self) -> bool:
        return bool(self.settings.get("trust_remote_code", False))

    @property
    def allows_pickle(self) -> bool:
        return bool(self.settings.get("allow_pickle", False))

    def to_dict(self) -> dict[str, Any]:
        """The resolved recipe, as a document shows it."""
        step = {"surgery": self.surgery, **self.step}
        return {"source": self.source, "steps": [step], "output": self.output, **self.settings}


@dataclass(frozen=True)
class RunResult:
    """What a recipe did: its surgery's document with the resolved recipe in it."""

    recipe: Recipe
    document: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        return {**self.document, "command": "run", "recipe": self.recipe.to_dict()}


def run(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    dry_run: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Run a recipe file.

    overrides: `KEY=VALUE`, KEY with dots into lists and mappings (`steps.0.target=graft`), VALUE
    read as YAML. Paths are relative to the working directory.
    Raises UsageError for anything wrong with the recipe, else what the surgery raises.
    """
    checked = read_recipe(Path(recipe), overrides)
    import normsurgery

    surgery: Callable[..., Any] = getattr(normsurgery, checked.surgery)
    result = surgery(
        checked.source,
        checked.output,
        **checked.step,
        **checked.settings,
        dry_run=dry_run,
        progress=progress,
    )
    return RunResult(checked, result.to_dict())


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, checked, with `overrides` applied first."""
    values = _parse(path)
    for override in overrides:
        _override(values, override)
    top = _checked(values, TOP, str(path))
    for key in ("source", "steps", "output"):
        if key not in top:
            raise UsageError(f"{path}: {key} is missing", f"add `{key}:` or --set {key}=…")
    surgery, step = _step(top["steps"])
    settings = {
        key: value for key, value in top.items() if key not in ("source", "steps", "output")
    }
    settings |= _verification(settings.pop("verify", True), surgery)
    return Recipe(top["source"], top["output"], surgery, step, settings)


def _load(text: str) -> Any:
    """Plain YAML, in which `1e-3` is a number as in YAML 1.2 (PyYAML reads it as text)."""
    import yaml

    class Loader(yaml.SafeLoader):
        """With one more way to write a number."""

    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return yaml.load(text, Loader)


def _parse(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = _load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "the recipe is a YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not YAML: {error}", "mind the indentation") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} has no keys", "it needs source, steps and output")
    return values


def _override(values: Any, override: str) -> None:
    """Set one value in place, with the keys on the way to it created where they are missing."""
    import yaml

    key, equals, text = override.partition("=")
    if not key or not equals:
        raise UsageError(f"--set {override}: not KEY=VALUE", "such as --set source=./my-model")
    try:
        value = _load(text) if text else ""
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: the value is not YAML", "quote it") from error
    *path, last = key.split(".")
    for part in path:
        if isinstance(values, dict):
            values = values.setdefault(part, {})
        else:
            values = values[_index(values, part, override)]
    if isinstance(values, dict):
        values[last] = value
    else:
        values[_index(values, last, override)] = value


def _index(values: Any, part: str, override: str) -> int:
    if isinstance(values, list) and part.isdigit() and int(part) < len(values):
        return int(part)
    raise UsageError(f"--set {override}: there is no {part} there", "steps count from 0")


def _step(steps: list[Any]) -> tuple[str, dict[str, Any]]:
    if len(steps) != 1:
        raise UsageError(f"{len(steps)} steps: a recipe takes exactly one for now", "one a recipe")
    step = steps[0]
    if not isinstance(step, dict) or not isinstance(step.get("surgery"), str):
        raise UsageError("steps.0 names no surgery", f"surgery: {' or '.join(SURGERIES)}")
    options = dict(step)
    surgery = options.pop("surgery")
    if surgery not in SURGERIES:
        raise UsageError(f"unknown surgery {surgery!r}", _nearest(surgery, SURGERIES))
    schema = SURGERIES[surgery]
    checked = _checked(options, schema.keys, "steps.0", schema.choices)
    for key in schema.needed:
        if key not in checked:
            raise UsageError(f"steps.0: {key} is missing", f"add `{key}:` or --set steps.0.{key}=…")
    return surgery, checked


def _verification(given: bool | dict[str, Any], surgery: str) -> dict[str, Any]:
    """`verify: false`, `verify: true`, or a mapping of how."""
    if isinstance(given, bool):
        return {"verify": given}
    if given.get("data") is not None and "data" in SURGERIES[surgery].keys:
        raise UsageError(
            f"verify: data is not for {surgery}, which has a text of its own",
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
            raise UsageError(f"{where}: unknown key {key!r}", _nearest(str(key), schema))
        if value is not None and type(value) not in schema[key]:
            wanted = _WORDS[schema[key]]
            raise UsageError(f"{where}: {key} is {value!r}, wanted {wanted}", f"{key}: {wanted}")
        if value is not None and key in choices and value not in choices[key]:
            raise UsageError(f"{where}: {key} is {value!r}", f"one of: {', '.join(choices[key])}")
    return {str(key): value for key, value in values.items() if value is not None}


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"one of: {', '.join(known)}"
