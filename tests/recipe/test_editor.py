"""The JSON schema that editors read takes what the reader takes, and says what each key means."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from normsurgery.errors import UsageError
from normsurgery.recipe import recipe_of
from normsurgery.recipe.editor import NAME, json_schema, schema_text
from normsurgery.recipe.errors import words_of
from normsurgery.recipe.schema import SURGERIES, Push, RecipeKeys, Verify, options_of

RECIPES = Path(__file__).parents[2] / "recipes"
SCHEMA = json_schema()
EDITOR = Draft202012Validator(SCHEMA)
HEAL = {"surgery": "heal", "teacher": "t"}


def test_the_file_is_what_the_code_makes():
    assert (RECIPES / NAME).read_text(encoding="utf-8") == schema_text(), "make schema"
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("surgery", SURGERIES)
def test_every_option_has_its_choices_its_default_and_words(surgery):
    model = SURGERIES[surgery]
    ours = SCHEMA["$defs"][model.__name__]
    options = {key: value for key, value in ours["properties"].items() if key != "surgery"}
    assert set(options) == set(options_of(surgery))
    for key, value in options.items():
        assert value["description"].strip()
        assert "default" in value or key == "teacher" or model.model_fields[key].is_required()
        choices = words_of(model, key)
        assert value.get("enum") == ([*choices, None] if choices else None)


@pytest.mark.parametrize("model", [Push, Verify])
def test_what_verify_and_push_take_is_explained(model):
    assert all(one["description"] for one in properties(model).values())


def test_a_key_that_two_have_is_explained_for_each():
    norm, repository = (SCHEMA["$defs"][name]["properties"]["to"] for name in ("Convert", "Push"))
    assert "LayerNorm" in norm["description"] and "Hub" in repository["description"]


def properties(model):
    return SCHEMA["$defs"][model.__name__]["properties"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_editor_has_nothing_to_say_of_a_shipped_recipe(path):
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert [error.message for error in EDITOR.iter_errors(recipe)] == []


VALUES = [None, "x", True, 0, 1, 7, -1, 1.5, ["x"], [1], {}, {"x": 1}]


def refused(recipe):
    """What the reader says; None for a recipe that it takes."""
    try:
        recipe_of(recipe, "r.yaml")
    except UsageError as error:
        return error.message
    return None


@pytest.mark.parametrize("surgery", SURGERIES)
def test_the_editor_takes_of_a_step_what_the_reader_takes(surgery):
    model = SURGERIES[surgery]
    needed = {key: "1" for key in options_of(surgery) if model.model_fields[key].is_required()}
    wrong = 0
    for key in options_of(surgery):
        for value in [*VALUES, *words_of(model, key)]:
            if key == "teacher" and value is None:
                continue  # the first step's is needed, a later one's is not: no editor knows
            step = {"surgery": surgery, **({"teacher": "t"} if surgery == "heal" else {}), **needed}
            recipe = {"source": "a", "output": "b", "steps": [{**step, key: value}]}
            said = refused(recipe)
            assert EDITOR.is_valid(recipe) == (said is None), (key, value, said)
            wrong += said is not None
    assert wrong > 20


@pytest.mark.parametrize("key", [*RecipeKeys.model_fields, "outptu"])
def test_the_editor_takes_outside_the_steps_what_the_reader_takes(key):
    forms = [False, {"data": None}, {"data": 1}, {"keep_failed": True}]
    forms += [{"to": "a/b"}, {"to": 1}, {"to": "a/b", "private": "no"}, {"create_pr": True}]
    for value in [*VALUES, *forms]:
        recipe = {"source": "a", "output": "b", "steps": [{"surgery": "convert"}], key: value}
        if value is None and key in ("source", "output"):
            continue  # may come from --set
        said = refused(recipe)
        assert EDITOR.is_valid(recipe) == (said is None), (value, said)


def test_an_editor_names_the_one_key_that_is_wrong():
    recipe = {"source": "a", "steps": [{**HEAL, "lrr": 1}], "output": "b"}
    (error,) = EDITOR.iter_errors(recipe)
    assert "'lrr' was unexpected" in error.message and list(error.absolute_path) == ["steps", 0]
    recipe["steps"] = [{**HEAL, "tokens": 1}]
    (error,) = EDITOR.iter_errors(recipe)
    assert list(error.absolute_path) == ["steps", 0, "tokens"]


def test_the_schema_is_plain_json():
    assert json.loads(schema_text()) == SCHEMA
