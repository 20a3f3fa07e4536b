"""The JSON schema that editors read says what a recipe is checked against."""

import json
from pathlib import Path

import pytest

from normsurgery.errors import UsageError
from normsurgery.recipe import read_recipe
from normsurgery.recipe_editor import NAME, json_schema, schema_text
from normsurgery.recipe_schema import SURGERIES, TOP

RECIPES = Path(__file__).parents[1] / "recipes"


def test_the_file_is_what_the_code_makes():
    assert (RECIPES / NAME).read_text(encoding="utf-8") == schema_text(), "make schema"


@pytest.mark.parametrize("surgery", SURGERIES)
def test_every_option_has_its_choices_its_default_and_words(surgery):
    ours = json_schema()["$defs"][surgery]
    options = {key: value for key, value in ours["properties"].items() if key != "surgery"}
    assert set(options) == set(SURGERIES[surgery].keys)
    for key, value in options.items():
        assert value["description"].strip()
        assert "default" in value or key in SURGERIES[surgery].needed
        choices = SURGERIES[surgery].choices.get(key)
        assert value.get("enum") == ([*choices, None] if choices else None)


def test_the_schema_takes_what_the_reader_takes(tmp_path):
    """A type that the schema leaves out must be one that the reader refuses, for every key."""
    values = {"string": "x", "boolean": True, "integer": 1, "array": ["x"], "number": 1.5}
    schema = json_schema()
    wrong = 0
    for surgery, described in SURGERIES.items():
        for key in set(described.keys) - set(described.choices):
            allowed = schema["$defs"][surgery]["properties"][key]["type"]
            for kind, value in values.items():
                takes = kind in allowed or (kind == "integer" and "number" in allowed)
                step = {"surgery": surgery, **dict.fromkeys(described.needed, "1"), key: value}
                recipe = {"source": "a", "output": "b", "steps": [step]}
                path = tmp_path / "r.json"
                path.write_text(json.dumps(recipe))
                try:
                    read_recipe(path)
                except UsageError as error:
                    assert not takes and f"{key} is" in error.message
                    wrong += 1
                else:
                    assert takes
    assert wrong > 100


def test_the_keys_outside_the_steps_are_those_of_the_reader():
    schema = json_schema()
    assert set(schema["properties"]) == set(TOP) and schema["additionalProperties"] is False
