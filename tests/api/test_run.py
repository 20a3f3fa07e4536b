"""Recipes of several steps, and results that are made again from their surgery.json."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from normsurgery import SurgeryError, UsageError, VerificationError
from normsurgery.api import chain
from normsurgery.api.asked import pinned
from normsurgery.api.recipe_plan import whole_plan
from normsurgery.api.run import promised, run
from normsurgery.checkpoint import open_checkpoint
from normsurgery.recipe import Recipe, RecipeStep
from normsurgery.recipe.fusion import passes

NORM = {"surgery": "fold", "what": ["norm"]}
ROTATE = {"surgery": "fold", "what": "rotate"}


def write(directory: Path, *steps, **more) -> Path:
    path = directory / "r.yaml"
    recipe = {"device": "cpu", "seed": 3, **more, "steps": list(steps)}
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def contents(directory: Path) -> dict[str, bytes]:
    """Name → bytes; a folder has none."""
    return {p.name: p.read_bytes() if p.is_file() else b"" for p in directory.iterdir()}


def test_several_steps_make_one_output_that_is_made_again_byte_for_byte(tiny, tmp_path):
    source = tiny("gpt2")
    places = [f"source={source}", f"output={tmp_path / 'out'}"]
    longer = {"surgery": "arrange", "blocks": "0,zero,1-2"}
    recipe = write(tmp_path, {**NORM, "untie": True}, longer)
    document = run(recipe, overrides=places).to_dict()
    assert [one["surgery"] for one in document["steps"]] == ["fold", "arrange"]
    assert document["verification"]["verdict"] == "pass"
    assert document["verification"]["contract"] == "exact"
    assert {one["verdict"] for one in document["verification"]["steps"]} == {"pass"}
    assert document["source"]["model"] == source.name
    assert {path.name for path in tmp_path.iterdir()} == {"r.yaml", "out"}
    papers = json.loads((tmp_path / "out/surgery.json").read_text())
    assert str(tmp_path) not in json.dumps(papers) and str(source) not in json.dumps(papers)
    assert papers["recipe"]["seed"] == 3 and papers["recipe"]["source"] == source.name
    assert set(papers["files"]["source"]) == {"model.safetensors"}
    assert not {"surgery.json", "README.md"} & set(papers["files"]["result"])  # of the step before
    assert papers["config_diff"]["n_layer"] == [3, 4]
    assert papers["config_diff"]["tie_word_embeddings"][1] is False
    again = [f"source={source}", f"output={tmp_path / 'again'}"]
    run(tmp_path / "out/surgery.json", overrides=again)
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_a_single_surgery_is_made_again_with_all_its_options(tiny, tmp_path):
    source = tiny("gpt2")
    step = {"surgery": "convert", "target": "graft", "dtype": "bfloat16", "max_shard_size": 40000}
    recipe = write(tmp_path, step, output=str(tmp_path / "out"))
    run(recipe, overrides=[f"source={source}"])
    recorded = json.loads((tmp_path / "out/surgery.json").read_text())["recipe"]
    assert recorded["steps"] == [
        {
            "surgery": "convert", "to": "rmsnorm", "target": "graft", "fold_affine": False,
            "untie": False, "part": None, "dtype": "bfloat16", "max_shard_size": 40000,
            "allow_nonfinite": False,
        }
    ]  # fmt: skip
    assert recorded["verify"] is True and recorded["device"] == "cpu"
    again = [f"source={source}", f"output={tmp_path / 'again'}"]
    run(tmp_path / "out/surgery.json", overrides=again)
    assert "__pycache__" not in contents(tmp_path / "out")
    assert len(contents(tmp_path / "out")) > 4  # several shards
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_a_step_that_fails_leaves_nothing_and_is_named(tiny, tmp_path):
    recipe = write(
        tmp_path, {"surgery": "convert"}, {"surgery": "arrange", "blocks": "0-7"}, verify=False
    )
    with pytest.raises(UsageError, match=r"^step 2 \(arrange\): "):
        run(recipe, overrides=[f"source={tiny('gpt2')}", f"output={tmp_path / 'out'}"])
    assert {path.name for path in tmp_path.iterdir()} == {"r.yaml"}


def test_an_output_that_exists_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "out").mkdir()
    recipe = write(tmp_path, {"surgery": "convert"}, ROTATE)
    with pytest.raises(UsageError, match="out exists already"):
        run(recipe, overrides=["source=/nowhere", f"output={tmp_path / 'out'}"])


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = write(tmp_path, {"surgery": "convert"}, ROTATE, source="x", output="y")
    with pytest.raises(UsageError, match="one process"):
        run(recipe)


def test_a_failed_result_is_kept_beside_the_output(tmp_path):
    recipe = Recipe("a", str(tmp_path / "out"), (), {})
    scratch = tmp_path / "scratch"
    (scratch / "step-1.failed").mkdir(parents=True)

    def fails(step, source, target, **more):
        raise VerificationError("no", "see")

    with pytest.raises(VerificationError, match=r"step 1 \(fold\): no") as caught:
        chain.Steps(recipe, fails, scratch).run([RecipeStep("fold", {})])
    assert str(tmp_path / "out.failed") in caught.value.hint
    assert (tmp_path / "out.failed").is_dir() and isinstance(caught.value, SurgeryError)


def test_a_source_and_a_teacher_of_the_hub_are_named_with_their_commits(tiny):
    here = open_checkpoint(tiny("gpt2"))
    assert pinned(here) == here.model_id
    assert pinned(replace(here, model_id="a/b", revision="c0ffee")) == "a/b@c0ffee"


def step(**options) -> RecipeStep:
    return RecipeStep("fold", options)


@pytest.mark.parametrize(
    ("first", "second", "fused"),
    [
        (step(what="norm"), step(what=["rotate"]), ["norm", "rotate"]),
        (step(what="norm,value-bias"), step(what="rotate", dtype="float16"), "all"),
        (step(what="norm", untie=True), step(what="rotate"), ["norm", "rotate"]),
        (step(what="rotate"), step(what="norm"), None),  # another order
        (step(what="norm"), step(what="norm"), None),
        (step(what="norm", dtype="float16"), step(what="rotate"), None),
        (step(what="norm"), step(what="rotate", untie=True), None),
        (step(what="norm"), step(what="rotate", rotation="random"), None),
        (step(what="norm"), step(what="recalibrate"), None),
        (RecipeStep("convert", {}), step(what="norm"), None),
    ],
)
def test_folds_in_order_are_one_pass(first, second, fused):
    found = passes([first, second])
    if fused is None:
        assert [one.places for one in found] == [(0,), (1,)]
        return
    assert [one.places for one in found] == [(0, 1)]
    what = ["norm", "value-bias", "rotate"] if fused == "all" else fused
    assert found[0].step.options == {**first.options, **second.options, "what": what}


def test_fused_folds_are_the_bytes_of_one_fold_of_both(tiny, tmp_path):
    source = f"source={tiny('llama')}"
    fused = run(write(tmp_path, NORM, ROTATE), overrides=[source, f"output={tmp_path / 'a'}"])
    assert len(fused.recipe.steps) == 2 and "steps" not in fused.document
    both = {"surgery": "fold", "what": ["norm", "rotate"]}
    run(write(tmp_path, both), overrides=[source, f"output={tmp_path / 'b'}"])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    ("dtypes", "needed"),
    [
        ([[None], [None], [None]], 2000),
        ([[None], ["float16"]], 1500),
        ([["float16"], [None], ["float64"]], 5000),  # 1000 is what is left of it
        ([[None, "float16"]], 1000),
        ([["float16", None], ["float32"]], 3000),
    ],
)
def test_the_disk_that_a_recipe_takes_is_that_of_two_results_in_a_row(dtypes, needed):
    rows = [
        {"pass": number, "options": {"dtype": name}, "output": f"o{number}"}
        for number, group in enumerate(dtypes, 1)
        for name in group
    ]
    plan = {"source": {"dtype": "F32"}, "plan": {"bytes": 1000, "disk_free": 7}}
    found = whole_plan(rows, plan)
    assert found == {
        "passes": len(dtypes), "disk_needed": needed, "disk_free": 7, "output": f"o{len(dtypes)}",
    }  # fmt: skip


def test_a_dry_run_prints_every_pass_with_every_option(tiny, tmp_path):
    pruned = {"surgery": "prune", "drop": 1, "substitute": "refit"}
    recipe = write(tmp_path, NORM, ROTATE, pruned, source=str(tiny("llama")), output="o")
    plan = run(recipe, dry_run=True).to_dict()
    first, second = plan["steps"]
    assert first["places"] == [0, 1] and first["options"]["rotation"] == "hadamard"
    assert (first["source"], first["output"]) == (str(tiny("llama")), "step 1")
    assert (second["source"], second["output"]) == ("step 1", "o")
    assert second["options"] | {"drop": 1, "tokens": 65_536} == second["options"]
    assert (first["contract"], second["contract"]) == ("exact", "fitted")
    assert (first["said"], second["said"]) == (["what"], ["drop", "substitute"])
    assert plan["whole"]["passes"] == 2 and plan["whole"]["output"] == "o"
    assert plan["whole"]["disk_needed"] == 2 * plan["plan"]["bytes"]
    assert plan["plan"]["contract"] == "exact"  # of the first one, in detail
    assert {path.name for path in tmp_path.iterdir()} == {"r.yaml"}


@pytest.mark.parametrize(
    ("surgery", "options", "contract"),
    [
        ("prune", {"drop": 1}, "lossy"),
        ("fold", {"what": ["recalibrate"]}, "fitted"),
        ("fold_bn", {}, "exact"),
        ("remove_ln", {"finetune": True}, "trained"),
        ("remove_ln", {"one_shot": True}, "lossy"),
        ("heal", {}, "trained"),
        ("arrange", {"blocks": "0"}, "exact where every block stays in its place, else lossy"),
    ],
)
def test_what_a_step_promises(surgery, options, contract):
    assert promised(RecipeStep(surgery, options)) == contract
