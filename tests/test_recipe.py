import inspect
from pathlib import Path

import pytest

import normsurgery
from normsurgery import UsageError
from normsurgery.recipe import CHOICES, SURGERIES, read_recipe, run
from tests.cli.invoke import Fake
from tests.report import documents

SHIPPED = Path(__file__).parents[1] / "recipes" / "gpt2-to-rmsnorm.yaml"
MINIMAL = "source: gpt2\nsteps: [{surgery: convert}]\noutput: out\n"


@pytest.fixture
def write(tmp_path):
    def to_file(text):
        path = tmp_path / "r.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def test_a_minimal_recipe_is_the_surgery_with_its_defaults(write, monkeypatch):
    fake = Fake(documents.convert_document())
    monkeypatch.setattr(normsurgery, "convert", fake)
    document = run(write(MINIMAL)).to_dict()
    ((source, output), options) = fake.calls[0]
    assert (source, output) == ("gpt2", "out")
    assert options == {"verify": True, "dry_run": False, "progress": None}
    assert document["command"] == "run" and document["receipts"]
    assert document["recipe"]["steps"] == [{"surgery": "convert"}]


def test_every_key_reaches_the_surgery(write, monkeypatch):
    fake = Fake(documents.convert_document())
    monkeypatch.setattr(normsurgery, "convert", fake)
    text = """
source: gpt2
steps:
  - {surgery: convert, to: rmsnorm, target: stock, fold_affine: true, untie: true,
     part: transformer, dtype: bfloat16, max_shard_size: 2GB, allow_nonfinite: true}
verify: {data: t.txt, keep_failed: true}
output: out
overwrite: true
device: cpu
seed: 5
trust_remote_code: true
allow_pickle: true
"""
    run(write(text), dry_run=True)
    given = fake.calls[0][1]
    assert set(given) == set(inspect.signature(convert_itself()).parameters) - {"model", "output"}
    assert (given["data"], given["seed"], given["dry_run"]) == ("t.txt", 5, True)


def convert_itself():
    from normsurgery.api.convert import convert

    return convert


def test_schema_and_choices_are_convert_s_own():
    assert set(SURGERIES["convert"]) <= set(inspect.signature(convert_itself()).parameters)
    assert set(CHOICES) <= set(SURGERIES["convert"])


def test_overrides_replace_values_before_anything_is_checked(write):
    recipe = read_recipe(
        write(MINIMAL.replace("output: out\n", "")),
        ["source=./dir=x", "output=o", "steps.0.fold_affine=true", "verify.data=t.txt", "seed=3"],
    )
    assert (recipe.source, recipe.output) == ("./dir=x", "o")
    assert recipe.step == {"fold_affine": True}
    assert recipe.settings == {"seed": 3, "verify": True, "data": "t.txt"}


def test_verification_can_be_switched_off(write):
    assert read_recipe(write(MINIMAL + "verify: false\n")).settings["verify"] is False


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (MINIMAL + "outptu: x\n", "unknown key 'outptu'", "did you mean output?"),
        (MINIMAL + "zzzzzz: x\n", "unknown key 'zzzzzz'", "one of: source"),
        (MINIMAL.replace("}", ", fold_afine: true}"), "'fold_afine'", "did you mean fold_affine?"),
        (MINIMAL.replace("convert}", "convret}"), "unknown surgery", "did you mean convert?"),
        (MINIMAL.replace("}", ", to: layernorm}"), "to is 'layernorm'", "rmsnorm, crmsnorm"),
        (MINIMAL.replace("}", ", untie: 1}"), "untie is 1", "true or false"),
        (MINIMAL + "seed: true\n", "seed is True", "a whole number"),
        (MINIMAL + "verify: {dat: x}\n", "unknown key 'dat'", "did you mean data?"),
        (MINIMAL + "verify: 1\n", "verify is 1", "true or false"),
        ("steps: [{surgery: convert}]\noutput: o\n", "source is missing", "--set source="),
        ("source: a\nsteps: [{surgery: convert}]\n", "output is missing", "--set output="),
        ("source: a\nsteps: []\noutput: o\n", "0 steps", "one"),
        ("source: a\nsteps: [1]\noutput: o\n", "names no surgery", "surgery: convert"),
        ("source: a\nsteps: [{to: rmsnorm}]\noutput: o\n", "names no surgery", "convert"),
        ("source: [a]\nsteps: [{surgery: convert}]\noutput: o\n", "source is ['a']", "text"),
        ("a: [", "is not YAML", "indentation"),
        ("!!python/object:os.system {}", "is not YAML", "indentation"),
        ("- a\n", "has no keys", "source, steps and output"),
        ("", "has no keys", "source"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_is_right(write, text, message, hint):
    with pytest.raises(UsageError) as caught:
        read_recipe(write(text))
    assert message in caught.value.message and hint in caught.value.hint


@pytest.mark.parametrize("override", ["source", "=x", "steps.1.to=x", "steps.a=1", "source.a.b=1"])
def test_a_wrong_override_is_refused(write, override):
    with pytest.raises(UsageError, match="--set"):
        read_recipe(write(MINIMAL), [override])


def test_an_absent_recipe_is_refused(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_recipe(tmp_path / "none.yaml")


def test_the_shipped_recipe_names_the_real_model_and_spells_out_defaults():
    recipe = read_recipe(SHIPPED)
    assert recipe.source == "openai-community/gpt2"
    parameters = inspect.signature(convert_itself()).parameters
    assert recipe.step == {key: parameters[key].default for key in recipe.step}
