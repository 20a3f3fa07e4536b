"""A schedule by its name, or from a YAML file with the keys of `Schedule`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from normsurgery.anatomy.norm_paths import NormPath
from normsurgery.errors import UsageError
from normsurgery.nearest import choices_hint
from normsurgery.train.removal.published import PUBLISHED
from normsurgery.train.removal.schedule import Schedule, auto_schedule

AUTO = "auto"
_KEYS = {field.name: str(field.type) for field in fields(Schedule)}


def load_schedule(
    chosen: str | Path,
    *,
    parameters: int,
    tokens: int,
    tokens_per_step: int,
    paths: Sequence[NormPath],
) -> Schedule:
    """`auto`, a published schedule by its name, or a YAML file.

    What a file does not say is as in `auto`, made for the file's number of steps.
    UsageError for an unknown name or key, for a value of another type, or for a file that is none.
    """
    if str(chosen) in PUBLISHED:
        return PUBLISHED[str(chosen)]
    given = {} if str(chosen) == AUTO else _read(Path(chosen))
    auto = auto_schedule(
        parameters=parameters, tokens=tokens, tokens_per_step=tokens_per_step, paths=paths,
        steps=given.get("steps"),
    )  # fmt: skip
    if "min_learning_rate" not in given and "learning_rate" in given:
        share = auto.min_learning_rate / auto.learning_rate
        given["min_learning_rate"] = share * given["learning_rate"]
    return replace(auto, **given)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        hint = f"{choices_hint(str(path), (AUTO, *PUBLISHED))}; or a YAML file"
        raise UsageError(f"there is no schedule {str(path)!r}", hint)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        raise UsageError(f"{path.name} holds no keys and values", "steps: 300")
    unknown = [str(key) for key in content if key not in _KEYS]
    if unknown:
        raise UsageError(
            f"{path.name}: unknown key {', '.join(unknown)}", f"the keys are: {', '.join(_KEYS)}"
        )
    values = {key: _typed(path.name, key, value) for key, value in content.items()}
    return {"name": path.stem, **values}


def _typed(file: str, key: str, value: Any) -> Any:
    """The value in the field's type. UsageError names the key."""
    wanted = _KEYS[key]
    convert, words = _TYPES["int" if wanted == "int | None" else wanted]
    if value is None and wanted == "int | None":
        return None
    try:
        return convert(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{file}: {key} is {value!r}, not {words}") from error


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)  # also of a string: YAML 1.1 reads 6e-4, without a point, as one


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _pair(value: Any) -> tuple[float, float]:
    """One weight for the whole run, or the first and the last."""
    if not isinstance(value, list):
        return _number(value), _number(value)
    first, last = value
    return _number(first), _number(last)


_TYPES: dict[str, tuple[Any, str]] = {
    "int": (_whole, "a whole number"),
    "float": (_number, "a number"),
    "str": (_text, "a word"),
    "Order": (_text, "a word"),
    "tuple[float, float]": (_pair, "a number, or the first and the last of two"),
}
