"""A recipe's file: YAML or JSON to plain values, with `--set KEY=VALUE` applied."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from normsurgery.errors import UsageError

# What the recipe in a surgery.json may say. Such a file travels with weights: it is not for it to
# choose where something is written, or whose code runs.
_IN_PAPERS = ("source", "steps", "verify", "device", "seed")


def read_values(path: Path) -> dict[str, Any]:
    """The keys of a recipe file; of a result's surgery.json, those of the recipe in it.

    Raises UsageError for a file that cannot be read, or holds no recipe.
    """
    values = _parse(path)
    if path.suffix != ".json" or "recipe" not in values:
        return values
    recipe = values["recipe"]
    if not isinstance(recipe, dict):
        raise UsageError(f"{path} holds no recipe", "a result's surgery.json has one")
    for key in recipe:
        if key not in _IN_PAPERS:
            raise UsageError(
                f"{path}: {key!r} does not stand in the recipe of a result",
                f"take it out, and say it yourself: --set {key}=…",
            )
    return recipe


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
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else _load(text)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "the recipe is a YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        language = "JSON" if path.suffix == ".json" else "YAML"
        raise UsageError(f"{path} is not {language}: {error}", "mind the indentation") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} has no keys", "it needs source, steps and output")
    return values


def override(values: Any, change: str) -> None:
    """Set one value in place, with the keys on the way to it created where they are missing."""
    import yaml

    key, equals, text = change.partition("=")
    if not key or not equals:
        raise UsageError(f"--set {change}: not KEY=VALUE", "such as --set source=./my-model")
    try:
        value = _load(text) if text else ""
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"--set {change}: the value is not YAML", "quote it") from error
    *path, last = key.split(".")
    for part in path:
        if isinstance(values, dict):
            values[part] = _spelled_out(part, values.get(part))
            values = values[part]
        else:
            values = values[_index(values, part, change)]
    if isinstance(values, dict):
        values[last] = value
    else:
        values[_index(values, last, change)] = value


def _spelled_out(key: str, value: Any) -> Any:
    """What a key holds, as a mapping where nothing or the short form of one stands there."""
    if key == "push" and isinstance(value, str):
        return {"to": value}
    return {} if value is None or (key == "verify" and value is True) else value


def _index(values: Any, part: str, change: str) -> int:
    if isinstance(values, list) and part.isdigit() and int(part) < len(values):
        return int(part)
    raise UsageError(f"--set {change}: there is no {part} there", "steps count from 0")
