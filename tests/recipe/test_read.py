import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest

import normsurgery
from normsurgery import UsageError
from normsurgery.api.run import run
from normsurgery.recipe import read_recipe
from normsurgery.recipe.schema import options_of
from tests.cli.invoke import Fake, script
from tests.report import documents

RECIPES = Path(__file__).parents[2] / "recipes"
MINIMAL = "source: gpt2\nsteps: [{surgery: convert}]\noutput: out\n"
PRUNE = MINIMAL.replace("convert", "prune, drop: 2")


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


def run_settings():
    return """
output: out
overwrite: true
device: cpu
seed: 5
trust_remote_code: true
allow_pickle: true
"""


STEPS = {
    "convert": """
  - {surgery: convert, to: rmsnorm, target: stock, fold_affine: true, untie: true,
     part: transformer, dtype: bfloat16, max_shard_size: 2GB, allow_nonfinite: true}
verify: {data: t.txt, keep_failed: true}
""",
    "arrange": """
  - {surgery: arrange, blocks: "0-2,zero", stack: decoder, dtype: float16, max_shard_size: 5,
     allow_nonfinite: true}
verify: {data: t.txt, keep_failed: true}
""",
    "fold_bn": """
  - {surgery: fold_bn, form: graft, example: a.png, dtype: float16, max_shard_size: 5,
     allow_nonfinite: true}
verify: {data: t.txt, keep_failed: true}
""",
    "fold": """
  - {surgery: fold, what: "norm,rotate", untie: true, rotation: random, data: t.txt,
     reference: whole, plots: true, dtype: float16, max_shard_size: 5, allow_nonfinite: true}
verify: {keep_failed: true}
""",
    "prune": """
  - {surgery: prune, drop: 25%, stack: decoder, method: loss, iterative: true, explain: true,
     substitute: replaceme, objective: cosine, heal: sequential, data: t.txt, text_column: body,
     tokens: 99, max_length: 64, other_data: o.txt, plots: true, dtype: float32,
     max_shard_size: 2GB, allow_nonfinite: true}
verify: {data: null, keep_failed: true}
""",
    "heal": """
  - {surgery: heal, teacher: whole, train: head+last3, data: t.txt, text_column: body, tokens: 99,
     max_length: 64, steps: 7, epochs: 2, lr: 1e-4, batch_size: 2, gradient_accumulation: 3,
     gradient_checkpointing: true, bf16: false, ce: 0, kl: 0.5, hidden: 1.5, temperature: 2,
     lora_rank: 4, save_every: 5, resume: true, plots: true, dtype: float32, max_shard_size: 2GB,
     allow_nonfinite: true}
verify: {keep_failed: true}
""",
    "remove_ln": """
  - {surgery: remove_ln, finetune: true, one_shot: false, data: t.txt, text_column: body,
     other_data: o.txt, tokens: 99, max_length: 64, schedule: gpt2, sites: "mlp,final",
     export: partial, control: true, teacher: control, lr: 1e-4, batch_size: 2,
     gradient_accumulation: 3, gradient_checkpointing: true, bf16: false, save_every: 5,
     resume: true, report_to: trackio, plots: true, dtype: float32, max_shard_size: 2GB,
     allow_nonfinite: true}
verify: {keep_failed: true}
""",
}


@pytest.mark.parametrize("surgery", STEPS)
def test_every_key_reaches_the_surgery(write, monkeypatch, surgery):
    itself = getattr(import_module(f"normsurgery.api.{surgery}"), surgery)
    fake = Fake(documents.convert_document())
    monkeypatch.setattr(normsurgery, surgery, fake)
    text = f"source: gpt2\nsteps:{STEPS[surgery]}{run_settings()}"
    recipe = run(write(text), dry_run=True).recipe
    given = fake.calls[0][1]
    assert set(given) == set(inspect.signature(itself).parameters) - {"model", "output"}
    assert (given["data"], given["seed"], given["dry_run"]) == ("t.txt", 5, True)
    assert (given["keep_failed"], given["verify"]) == (True, True)
    assert {key: given[key] for key in options_of(surgery)} == recipe.steps[0].options


def test_a_recipe_is_read_without_importing_anything_heavy():
    code = """
import json, sys
from pathlib import Path
from normsurgery.recipe import read_recipe
read_recipe(Path(sys.argv[1]))
names = ("torch", "transformers", "numpy", "rich", "typer")
print(json.dumps([name for name in names if name in sys.modules]))
"""
    process = script(code, str(RECIPES / "llama-minus-quarter.yaml"))
    out, err = process.communicate(timeout=120)
    assert json.loads(out) == [], err


def test_overrides_replace_values_before_anything_is_checked(write):
    recipe = read_recipe(
        write(MINIMAL.replace("output: out\n", "")),
        ["source=./dir=x", "output=o", "steps.0.fold_affine=true", "verify.data=t.txt", "seed=3"],
    )
    assert (recipe.source, recipe.output) == ("./dir=x", "o")
    assert recipe.steps[0].options == {"fold_affine": True}
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
        (PRUNE + "verify: {data: x}\n", "verify: data is not for prune", "steps.0.data"),
        (PRUNE.replace("drop: 2", "drop: 2.5"), "drop is 2.5", "text or a whole number"),
        (PRUNE.replace("}", ", heal: lora}"), "heal is 'lora'", "one of: none, sequential"),
        (PRUNE.replace("}", ", to: rmsnorm}"), "unknown key 'to'", "one of: drop"),
        (PRUNE.replace(", drop: 2", ""), "steps.0: drop is missing", "--set steps.0.drop="),
        (PRUNE.replace("prune, drop: 2", "heal"), "teacher is missing", "teacher:"),
        (PRUNE.replace("prune, drop: 2", "arrange, blocks: 3"), "blocks is 3", "blocks: text"),
        (PRUNE.replace("prune, drop: 2", "heal, lr: low"), "lr is 'low'", "lr: a number"),
        (PRUNE + "verify: 1e-3\n", "verify is 0.001", "true or false or keys"),
        ("steps: [{surgery: convert}]\noutput: o\n", "source is missing", "--set source="),
        ("source: a\nsteps: [{surgery: convert}]\n", "output is missing", "--set output="),
        ("source: a\nsteps: []\noutput: o\n", "0 steps", "surgery"),
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


def test_a_number_may_be_written_with_an_exponent(write):
    text = MINIMAL.replace("convert", "heal, teacher: t, lr: 1e-4, ce: 2.5E-1")
    recipe = read_recipe(write(text), ["steps.0.kl=3e+0", "output=1e-4x"])
    options = recipe.steps[0].options
    assert (options["lr"], options["ce"], options["kl"]) == (1e-4, 0.25, 3.0)
    assert recipe.output == "1e-4x"


def test_every_model_that_a_run_opens_is_named(write):
    assert read_recipe(write(MINIMAL)).models == ("gpt2",)
    healing = read_recipe(write(MINIMAL.replace("convert", "heal, teacher: whole")))
    assert healing.models == ("gpt2", "whole")
    removing = read_recipe(write(MINIMAL.replace("convert", "remove_ln, teacher: control")))
    assert removing.models == ("gpt2",)  # here the teacher is a role


TWO = "source: a\nsteps: [{surgery: prune, drop: 1}, {surgery: heal}]\noutput: out\n"


def test_a_later_heal_is_held_to_the_source_of_the_recipe(write):
    recipe = read_recipe(write(TWO))
    assert recipe.models == ("a",) and "teacher" not in recipe.steps[1].options
    assert [step.surgery for step in recipe.steps] == ["prune", "heal"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO.replace("heal}", "heal, resume: true}"), "steps.1: resume is for a recipe of one"),
        (TWO.replace("heal}", "remove_ln}"), "steps.1: remove_ln writes nothing"),
        (TWO.replace("heal}", "heal, lrr: 1}"), "steps.1: unknown key 'lrr'"),
        (TWO.replace("heal}", "hela}"), "steps.1: unknown surgery 'hela'"),
        (TWO + "verify: {data: x}\n", "data is not for prune"),
    ],
)
def test_what_several_steps_cannot_be_is_refused(write, text, message):
    with pytest.raises(UsageError) as caught:
        read_recipe(write(text))
    assert message in caught.value.message


def test_text_to_verify_on_goes_to_the_steps_that_have_none_of_their_own(write):
    text = TWO.replace("{surgery: heal}", "{surgery: convert}") + "verify: {data: t.txt}\n"
    recipe = read_recipe(write(text))
    pruned, converted = (step.settings(recipe.settings) for step in recipe.steps)
    assert "data" not in pruned and converted["data"] == "t.txt"


@pytest.mark.parametrize(
    "key", ["trust_remote_code", "allow_pickle", "overwrite", "output", "push"]
)
def test_papers_choose_neither_code_to_run_nor_where_to_write(tmp_path, key):
    papers = tmp_path / "surgery.json"
    recipe = {"source": "a", "steps": [{"surgery": "convert"}]}
    papers.write_text(json.dumps({"command": "convert", "recipe": recipe}))
    assert read_recipe(papers, ["output=o"]).source == "a"
    papers.write_text(json.dumps({"recipe": {**recipe, key: True}}))
    with pytest.raises(UsageError, match=f"'{key}' does not stand in the recipe of a result"):
        read_recipe(papers, ["output=o"])


@pytest.mark.parametrize("text", ["{", '{"recipe": []}', "[]"])
def test_papers_that_hold_no_recipe_are_refused(tmp_path, text):
    (tmp_path / "surgery.json").write_text(text)
    with pytest.raises(UsageError, match=r"not JSON|no recipe|no keys"):
        read_recipe(tmp_path / "surgery.json")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (PRUNE.replace("}", ", tokens: 1}"), "steps.0: tokens is 1, wanted 2 or more", "tokens: 2"),
        (PRUNE.replace("prune, drop: 2", "heal, teacher: a, lr: .nan"), "lr is nan", "a finite"),
        (PRUNE.replace("prune, drop: 2", "fold, what: [1]"), "what is [1]", "a list of text"),
        (PRUNE.replace("prune, drop: 2", "fold, what: norm, rotation: radnom"), "rotation is",
         "did you mean random?"),
        (MINIMAL.replace("source", "sorce"), "unknown key 'sorce' (the first of 2", "source?"),
        (MINIMAL + "seed: x\nverify: {dat: 1}\n1: 2\n", "'dat' (the first of 3 errors)", "data"),
        (MINIMAL + "push: 1\n", "push is 1, wanted text or keys", "push: text or keys"),
        (MINIMAL + "push: {too: a/b}\n", "push: unknown key 'too' (the first of 2", "to?"),
        (MINIMAL + "push: {private: false}\n", "push: to is missing", "--set push.to="),
        (MINIMAL + "push: {to: a/b, create_pr: yep}\n", "push: create_pr is 'yep'", "true or"),
        (MINIMAL + "push: a/b\nverify: false\n", "not verified is not pushed", "unverified: true"),
        (MINIMAL.replace("convert", "remove_ln") + "push: a/b\n", "writes nothing", "finetune"),
        (MINIMAL + f"seed: 0x{'f' * 5000}0.\n", "seed is '0xfff", "a whole number"),
        (MINIMAL + f"device: 0x{'f' * 5000}\n", "device is a very large number", "text"),
    ],
)  # fmt: skip
def test_bounds_several_errors_and_push_are_told(write, text, message, hint):
    with pytest.raises(UsageError) as caught:
        read_recipe(write(text))
    assert message in caught.value.message and hint in caught.value.hint


@pytest.mark.parametrize("value", ["2024-99-99", "[", "9" * 5000])
def test_an_override_that_is_no_yaml_is_refused(write, value):
    with pytest.raises(UsageError, match="the value is not YAML"):
        read_recipe(write(MINIMAL), [f"device={value}"])


def test_push_may_be_a_name_or_keys(write):
    assert read_recipe(write(MINIMAL)).push == {}
    assert read_recipe(write(MINIMAL + "push: a/b\n")).push == {"to": "a/b"}
    text = MINIMAL + "push: {to: a/b, private: null, create_pr: true}\nverify: null\n"
    recipe = read_recipe(write(text))
    assert recipe.push == {"to": "a/b", "create_pr": True} and recipe.settings["verify"] is True
    off = MINIMAL + "push: {to: a/b, unverified: true}\nverify: false\n"
    assert read_recipe(write(off)).push["unverified"] is True


def test_an_override_spells_out_a_short_form(write):
    changes = ["push=a/b", "push.create_pr=true", "verify.keep_failed=true"]
    recipe = read_recipe(write(MINIMAL + "verify: true\n"), changes)
    assert recipe.push == {"to": "a/b", "create_pr": True}
    assert recipe.settings["keep_failed"] is True
    assert read_recipe(write(MINIMAL + "push: {to: x}\n"), ["push=a/b"]).push == {"to": "a/b"}
