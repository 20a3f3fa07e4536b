"""The JSON schema of recipes, for editors: keys, types, choices, defaults, and what each means.

Made from what a recipe is checked against (`recipe_schema`) and from the options of the commands,
which say the same in words; no second list of either exists.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from normsurgery.recipe_schema import SURGERIES, TOP, VERIFY, Surgery, Types

NAME = "recipe.schema.json"
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
_TOP_WORDS = {
    "source": "What is rewritten: a directory, or a Hub id with @revision to pin a commit.",
    "steps": "Surgeries in order: each takes what the one before made.",
    "verify": "Whether the saved files are verified, and how.",
    "output": "The directory to write.",
    "overwrite": "Replace the output once the new one is complete.",
    "seed": "For everything drawn at random.",
}


def schema_text() -> str:
    """The schema as it stands in the file, JSON Schema draft 2020-12."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def json_schema() -> dict[str, Any]:
    """The schema of a recipe. A surgery's own options hang on the word after `surgery`."""
    words = _words_of("convert") | _TOP_WORDS
    top: dict[str, Any] = {
        key: _value(types, None) | _about(key, words) for key, types in TOP.items()
    }
    top["steps"] = {
        "type": "array", "minItems": 1, "description": _TOP_WORDS["steps"],
        "items": {
            "type": "object",
            "required": ["surgery"],
            "properties": {"surgery": {"enum": list(SURGERIES), "description": "What is done."}},
            "allOf": [_where(name) for name in SURGERIES],
        },
    }  # fmt: skip
    verify = {key: _value(types, None) | _about(key, words) for key, types in VERIFY.items()}
    top["verify"] = {
        "description": _TOP_WORDS["verify"],
        "anyOf": [{"type": ["boolean", "null"]}, _object(verify)],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of normsurgery",
        **_object(top),
        "required": ["steps"],  # source and output may come from --set
        "$defs": {name: _surgery(name, surgery) for name, surgery in SURGERIES.items()},
    }


def _where(surgery: str) -> dict[str, Any]:
    """With `if`, an editor names the one key that is wrong, and not every surgery it fails."""
    named = {"properties": {"surgery": {"const": surgery}}, "required": ["surgery"]}
    return {"if": named, "then": {"$ref": f"#/$defs/{surgery}"}}


def _surgery(name: str, surgery: Surgery) -> dict[str, Any]:
    """A step with this surgery. `teacher` may be left out of a later step: it is the source."""
    words, defaults = _words_of(name), _defaults_of(name)
    keys: dict[str, Any] = {"surgery": {"const": name}}
    for key, types in surgery.keys.items():
        known = {"default": defaults[key]} if key in defaults else {}
        keys[key] = _value(types, surgery.choices.get(key)) | _about(key, words) | known
    needed = [key for key in surgery.needed if key != "teacher"]
    command = import_module(f"normsurgery.cli.{name}")
    said = (inspect.getdoc(getattr(command, name)) or "").splitlines()[0]
    return {"description": said, **_object(keys), "required": ["surgery", *needed]}


def _object(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": dict(keys)}


def _value(types: Types, choices: tuple[str, ...] | None) -> dict[str, Any]:
    """What a key takes; null always means the default."""
    if choices is not None:
        return {"enum": [*choices, None]}
    kinds = [_TYPES[kind] for kind in types if kind in _TYPES]
    if "number" in kinds:  # an integer is one
        kinds.remove("integer")
    return {"type": [*kinds, "null"]}


def _about(key: str, words: Mapping[str, str]) -> dict[str, str]:
    return {"description": words[key]} if key in words else {}


def _words_of(surgery: str) -> dict[str, str]:
    """Option → its help on the command line."""
    command = getattr(import_module(f"normsurgery.cli.{surgery}"), surgery)
    found = {}
    for key, hint in get_type_hints(command, include_extras=True).items():
        if get_origin(hint) is Annotated:
            help_ = getattr(get_args(hint)[1], "help", None)
            found.update({key: help_} if help_ else {})
    return found


def _defaults_of(surgery: str) -> dict[str, Any]:
    """Option → its default, of those that have one."""
    command = getattr(import_module(f"normsurgery.cli.{surgery}"), surgery)
    parameters = inspect.signature(command).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}
