"""The JSON schema of recipes, for editors: keys, types, choices, bounds, defaults, words.

Made from what a recipe is checked against (`recipe.schema`) and from the options of the commands,
which say in words what a key means, and its default; no second list of either exists.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema as core

from normsurgery.recipe.schema import SURGERIES, Push, RecipeKeys, Verify

NAME = "recipe.schema.json"
# What has other words in a recipe than on the command line, or none there.
_OF_THE_RECIPE = {
    "source": "What is rewritten: a directory, or a Hub id with @revision to pin a commit.",
    "steps": "Surgeries in order: each takes what the one before made.",
    "verify": "Whether the saved files are verified, and how.",
    "output": "The directory to write.",
    "overwrite": "Replace the output once the new one is complete.",
    "push": "The repository of the Hub that the output goes to once it stands, or keys.",
}
_OF_PUSH = {"to": "owner/name on the Hub; made where there is none."}


class _ForEditors(GenerateJsonSchema):
    """Pydantic's schema in the words that editors answer best to."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # `Max Shard Size` says no more than the key

    def default_schema(self, schema: core.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])  # null; the commands know the real one

    def nullable_schema(self, schema: core.NullableSchema) -> JsonSchemaValue:
        """One list of types or choices with null in it, where that says all."""
        inner = self.generate_inner(schema["schema"])
        if "enum" in inner:
            return {"enum": [*inner["enum"], None]}
        if "type" in inner:  # bounds bind numbers alone
            return {**inner, "type": [inner["type"], "null"]}
        options = inner.get("anyOf") or inner["oneOf"]
        if all(set(one) == {"type"} for one in options):
            return {"type": [*(one["type"] for one in options), "null"]}
        return {"anyOf": [*options, {"type": "null"}]}

    def tagged_union_schema(self, schema: core.TaggedUnionSchema) -> JsonSchemaValue:
        """With `if`, an editor names the one key that is wrong, and not every surgery it fails."""
        tag = schema["discriminator"]
        if not isinstance(tag, str):
            return super().tagged_union_schema(schema)
        choices = {str(name): self.generate_inner(one) for name, one in schema["choices"].items()}
        return {
            "type": "object",
            "required": [tag],
            "properties": {tag: {"enum": list(choices), "description": "What is done."}},
            "allOf": [_where(tag, name, ours) for name, ours in choices.items()],
        }


def _where(tag: str, name: str, then: JsonSchemaValue) -> JsonSchemaValue:
    return {"if": {"properties": {tag: {"const": name}}, "required": [tag]}, "then": then}


def schema_text() -> str:
    """The schema as it stands in the file, JSON Schema draft 2020-12."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def json_schema() -> dict[str, Any]:
    """The schema of a recipe. A surgery's own options hang on the word after `surgery`."""
    schema = RecipeKeys.model_json_schema(schema_generator=_ForEditors)
    models = schema.pop("$defs")
    for name, step in SURGERIES.items():
        models[step.__name__]["description"] = _first_line(_command(name))
        _explain(models[step.__name__], _command(name))
    _explain(models[Verify.__name__], _command("convert"))
    _explain(models[Push.__name__], _command("push"), _OF_PUSH)
    _explain(schema, _command("convert"), _OF_THE_RECIPE)
    schema |= {
        "title": "A recipe of normsurgery",
        "required": ["steps"],  # source and output may come from --set
    }
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**dialect, **schema, "$defs": models}


def _explain(model: dict[str, Any], command: Any, own: Mapping[str, str] | None = None) -> None:
    """Give every key its words (its own, else the option's), and the option's default."""
    words, defaults = {**_words_of(command), **(own or {})}, _defaults_of(command)
    for key, described in model["properties"].items():
        if key in words:
            described["description"] = words[key]
        if key in defaults:
            described["default"] = defaults[key]


def _command(name: str) -> Any:
    return getattr(import_module(f"normsurgery.cli.{name}"), name)


def _first_line(command: Any) -> str:
    return (inspect.getdoc(command) or "").splitlines()[0]


def _words_of(command: Any) -> Mapping[str, str]:
    """Option → its help on the command line."""
    found = {}
    for key, hint in get_type_hints(command, include_extras=True).items():
        if get_origin(hint) is Annotated:
            help_ = getattr(get_args(hint)[1], "help", None)
            found.update({key: help_} if help_ else {})
    return found


def _defaults_of(command: Any) -> Mapping[str, Any]:
    """Option → its default, of those that have one."""
    parameters = inspect.signature(command).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}
