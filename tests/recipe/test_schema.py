"""The models of recipes beside the functions and commands that they speak for, and at random."""

import inspect
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

import normsurgery
from normsurgery import UsageError
from normsurgery.recipe import read_recipe, recipe_of
from normsurgery.recipe.errors import words_of
from normsurgery.recipe.schema import SURGERIES, Push, RecipeKeys, Verify, options_of

hints = cache(get_type_hints)


def function_of(surgery):
    return getattr(import_module(f"normsurgery.api.{surgery}"), surgery)


SETTINGS = {
    *("output", "overwrite", "device", "seed", "verify", "keep_failed", "trust_remote_code"),
    *("allow_pickle", "dry_run", "progress"),
}


@pytest.mark.parametrize("surgery", SURGERIES)
def test_the_keys_of_a_step_are_the_options_of_its_function(surgery):
    model, function = SURGERIES[surgery], function_of(surgery)
    parameters = set(inspect.signature(function).parameters) - SETTINGS - {"model"}
    elsewhere = (
        {"data"} if surgery in ("convert", "arrange", "fold_bn") else set()
    )  # under `verify`
    assert set(options_of(surgery)) == parameters - elsewhere
    needed = {
        key for key, p in inspect.signature(function).parameters.items() if p.default is p.empty
    } - {"model", "output"}  # fmt: skip
    said = {key for key in options_of(surgery) if model.model_fields[key].is_required()}
    assert said == needed - {"teacher"}  # a later step's is the source
    ours, hints = get_type_hints(model), get_type_hints(function)
    for key in options_of(surgery):
        assert yaml_types(ours[key]) == yaml_types(hints[key]), key


def test_settings_have_the_types_of_the_functions():
    top, verify = get_type_hints(RecipeKeys), get_type_hints(Verify)
    for surgery in SURGERIES:
        hints = get_type_hints(function_of(surgery))
        for key in set(top) - {"source", "steps", "output", "verify", "push", "model_config"}:
            assert yaml_types(top[key]) == yaml_types(hints[key])
        for key in Verify.model_fields:
            assert yaml_types(verify[key]) == yaml_types(hints[key])


def test_what_push_takes_are_the_options_of_its_function():
    parameters = inspect.signature(normsurgery.push).parameters
    assert set(Push.model_fields) - {"to"} == set(parameters) - {
        "output", "repository", "dry_run", "progress",
    }  # fmt: skip
    ours = get_type_hints(Push)
    theirs = get_type_hints(import_module("normsurgery.api.push").push)
    for key in set(Push.model_fields) - {"to"}:
        assert yaml_types(ours[key]) == yaml_types(theirs[key])


def yaml_types(hint):
    """What YAML may hold where a function takes this."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    found: set[type] = set()
    for option in options:
        kind = str if get_origin(option) is Literal or option is Path else option
        kind = list if get_origin(option) in (Sequence, list) else kind
        found |= {int, float} if kind is float else {kind}
    return found - {type(None)}


def choices(hints):
    """Option → the words that its type names."""
    found = {}
    for key, hint in hints.items():
        for option in (hint, *get_args(hint)):
            if get_origin(option) is Literal:
                found[key] = get_args(option)
    return found


@pytest.mark.parametrize("surgery", SURGERIES)
def test_the_choices_are_those_of_the_function_and_of_the_command(surgery):
    ours = choices(get_type_hints(SURGERIES[surgery])) | {"surgery": None}
    command = import_module(f"normsurgery.cli.{surgery}")
    assert choices(get_type_hints(getattr(command, surgery))) | {"surgery": None} == ours
    own = choices(get_type_hints(function_of(surgery)))
    assert own == {key: ours[key] for key in own}
    for key in options_of(surgery):
        assert words_of(SURGERIES[surgery], key) == ours.get(key, ())


@pytest.mark.parametrize("surgery", SURGERIES)
def test_the_bounds_are_those_of_the_command(surgery):
    command = getattr(import_module(f"normsurgery.cli.{surgery}"), surgery)
    theirs = get_type_hints(command, include_extras=True)
    ours = SURGERIES[surgery].model_json_schema()["properties"]
    for key in options_of(surgery):
        least = [one.get("minimum") for one in (ours[key], *ours[key].get("anyOf", ()))]
        bound = next((one for one in least if one is not None), None)
        assert bound == get_args(theirs[key])[1].min, key


NAMES = sorted(SURGERIES)
KEYS = st.sampled_from(
    [*RecipeKeys.model_fields, *Push.model_fields, *Verify.model_fields, "surgery", "outptu"]
) | st.sampled_from(sorted({key for name in SURGERIES for key in options_of(name)}))
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.dates()
    | st.binary(max_size=2) | st.sampled_from(NAMES)
)  # fmt: skip
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS | PLAIN, inner, max_size=4)
        | st.fixed_dictionaries(
            {"surgery": st.sampled_from(NAMES)}, optional=dict.fromkeys(("to", "data"), inner)
        )
    ),
    max_leaves=8,
)


@st.composite
def recipes(draw):
    """Any valid recipe, as the models allow it."""
    places = st.integers(1, 2).flatmap(lambda n: st.lists(steps(), min_size=n, max_size=n))
    found = {"source": "a", "output": "b", "steps": draw(places)}
    for key, field in RecipeKeys.model_fields.items():
        if key not in found and draw(st.booleans()):
            found[key] = draw(fitting(RecipeKeys, key, field))
    return found


@st.composite
def steps(draw):
    name = draw(st.sampled_from(NAMES))
    found = {"surgery": name}
    for key, field in SURGERIES[name].model_fields.items():
        if key != "surgery" and (field.is_required() or draw(st.booleans())):
            found[key] = draw(fitting(SURGERIES[name], key, field))
    return found


def fitting(model, key, field):
    """Values that a key takes: of its words, else of its types."""
    kinds = {
        bool: st.booleans(), int: st.integers(2, 9), str: st.text("ab 1-:#'\n\t", min_size=1),
        float: st.floats(0, 9), list: st.lists(st.text(max_size=3), max_size=2),
        Verify: st.fixed_dictionaries({}, optional={"keep_failed": st.booleans()}),
        Push: st.fixed_dictionaries({"to": st.text()}, optional={"private": st.booleans()}),
    }  # fmt: skip
    words = words_of(model, key)
    if words:
        return st.sampled_from(words)
    return st.one_of(*(kinds[kind] for kind in sorted(yaml_types(hints(model)[key]), key=str)))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipes())
def test_every_recipe_reads_back_as_itself(values):
    try:
        recipe = recipe_of(values, "r.yaml")
    except UsageError:  # keys that are right, and make no sense together
        reject()
    with TemporaryDirectory() as directory:
        path = Path(directory) / "r.yaml"
        path.write_text(yaml.safe_dump(recipe.to_dict()), encoding="utf-8")
        again = read_recipe(path)
    assert again == recipe


RANDOM = st.dictionaries(KEYS | PLAIN, VALUES, max_size=3)


@st.composite
def mappings(draw):
    """Anything at all, or a recipe with keys replaced at the top and in its first step."""
    if draw(st.booleans()):
        return draw(RANDOM)
    recipe = {**draw(recipes()), **draw(RANDOM)}
    rows = recipe["steps"]
    if isinstance(rows, list) and rows and isinstance(rows[0], dict):
        recipe["steps"] = [{**rows[0], **draw(RANDOM)}, *rows[1:]]
    return recipe


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mappings())
def test_any_mapping_is_a_recipe_or_a_usage_error(values):
    try:
        recipe = recipe_of(values, "r.yaml")
    except UsageError as error:
        assert error.message and error.hint
    else:
        assert recipe.steps
