"""Several exact steps as one pass: no weights between them, one verification, every number once."""

import json
import shutil
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from normsurgery import VerificationError
from normsurgery.api import chain
from normsurgery.api.handover import Handed, NotFusedError
from normsurgery.api.run import run
from normsurgery.api.writing import Writing
from normsurgery.checkpoint import open_checkpoint, sink
from normsurgery.recipe import Recipe, RecipeStep
from normsurgery.recipe.fusion import groups, passes, why_on_files

# what the tests replace in them is not theirs to give away
fused: Any = import_module("normsurgery.api.fused")
tensor: Any = import_module("normsurgery.checkpoint.tensor")
centre: Any = import_module("normsurgery.surgery.centre")
NOTHING: Any = None

CONVERT = {"surgery": "convert"}
NORM = {"surgery": "fold", "what": ["norm"]}
VALUES = {"surgery": "fold", "what": ["value-bias"]}
LONGER = {"surgery": "arrange", "blocks": "0,zero,1-2"}
SHORTER = {"surgery": "arrange", "blocks": "0-1"}


def done(source: Path, output: Path, *steps, fuse=True, dry_run=False, **more):
    recipe = output.with_suffix(".yaml")
    values = {"source": str(source), "output": str(output), "device": "cpu", "seed": 3, **more}
    recipe.write_text(yaml.safe_dump({**values, "steps": list(steps)}), encoding="utf-8")
    return run(recipe, fuse=fuse, dry_run=dry_run).to_dict()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def outputs(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    ids = torch.arange(1, 33).view(2, 16)
    with torch.inference_mode():
        return model(ids).logits


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """Weight files that are written, less those of twins: what holds them, from the output on."""
    found: list[str] = []
    opened = sink.Sink.__init__

    def opening(self, path, name, **more):
        if path.suffix == ".safetensors" and "normsurgery-twin-" not in str(path):
            found.append(path.name)
        opened(self, path, name, **more)

    monkeypatch.setattr(sink.Sink, "__init__", opening)
    return found


@pytest.fixture
def mapped(monkeypatch) -> Counter[tuple[Path, int]]:
    """(file, offset) of a tensor → how often it is mapped to compute with it."""
    found: Counter[tuple[Path, int]] = Counter()
    original = tensor.mapped_bytes

    def mapping(run, item):
        found[run.path, run.offset] += 1
        return original(run, item)

    monkeypatch.setattr(tensor, "mapped_bytes", mapping)
    return found


def test_the_result_is_that_of_the_steps_one_by_one(tiny, tmp_path, written):
    source = tiny("gpt2", dtype="float64")
    steps = [VALUES, CONVERT, LONGER]
    document = done(source, tmp_path / "one", *steps)
    assert written == ["model.safetensors"]  # of three steps
    done(source, tmp_path / "each", *steps, fuse=False)
    assert len(written) == 4
    mine, theirs = outputs(tmp_path / "one"), outputs(tmp_path / "each")
    assert (mine - theirs).abs().max() <= 1e-12 * theirs.std()
    assert not torch.equal(theirs, theirs * (1 + 1e-12))
    ours, other = (open_checkpoint(tmp_path / name) for name in ("one", "each"))
    assert list(ours) == list(other) and ours.config == other.config
    verification = document["verification"]
    assert (verification["verdict"], verification["contract"]) == ("pass", "exact")
    *first, last = verification["steps"]
    assert [one["with_step"] for one in first] == [3, 3] and last["since_step"] == 1
    assert last["stock"]["outputs"]["logits"]


def test_one_pass_is_verified_in_both_forms_and_made_again_byte_for_byte(tiny, tmp_path, mapped):
    source, out = tiny("gpt2", dtype="bfloat16"), tmp_path / "out"
    document = done(source, out, VALUES, CONVERT)
    last = document["verification"]["steps"][-1]
    assert {name for name, one in last.items() if isinstance(one, dict)} == {"stock", "graft"}
    assert [one["surgery"] for one in document["receipts"]] == ["value-bias", "centre"]
    assert [(one["surgery"], one["pass"]) for one in document["steps"]] == [
        ("fold", 1), ("convert", 1),
    ]  # fmt: skip
    assert all("proof" in one and one["on_files"] is None for one in document["steps"])
    assert document["steps"][1]["source"]["model"] == "step-1"
    papers = json.loads((out / "surgery.json").read_text())
    assert papers["files"]["source"] and papers["files"]["result"]
    assert str(tmp_path) not in json.dumps(papers)
    assert "In one pass with step 2" in (out / "README.md").read_text()
    # to compute: each weight for itself, and where a bias takes its product
    reads = {
        name: mapped[t.range.path, t.range.offset]
        for name, t in open_checkpoint(source).items()
        if t.range is not None
    }
    matrices = {name: count for name, count in reads.items() if "ln_" not in name}
    assert max(matrices.values()) == 2
    assert {n for n, count in matrices.items() if count > 1 and n.endswith("weight")} == {
        f"transformer.h.{n}.attn.c_proj.weight" for n in range(3)
    }
    run(out / "surgery.json", overrides=[f"source={source}", f"output={tmp_path / 'again'}"])
    assert contents(tmp_path / "again") == contents(out)


def test_a_step_that_is_wrong_is_named_by_its_own_proof(tiny, tmp_path, monkeypatch):
    original = centre.centred
    monkeypatch.setattr(centre, "centred", lambda *a, **k: 1.01 * original(*a, **k))
    with pytest.raises(VerificationError, match=r"^step 2 \(convert\): "):
        done(tiny("gpt2"), tmp_path / "out", VALUES, CONVERT, LONGER)
    assert {path.name for path in tmp_path.iterdir()} == {"out.yaml"}


def test_a_wrong_result_of_proved_steps_is_not_published(tiny, tmp_path, monkeypatch):
    original = fused.rounded_once

    def spoiled(steps):
        result = original(steps)
        name = "transformer.h.1.mlp.c_fc.weight"
        return result.override({name: result[name].map(lambda rows: rows * 1.01, by_rows=True)})

    monkeypatch.setattr(fused, "rounded_once", spoiled)
    with pytest.raises(
        VerificationError, match=r"^steps 1 to 2 \(fold, convert\) in one"
    ) as failed:
        done(tiny("gpt2"), tmp_path / "out", VALUES, CONVERT)
    assert "--no-fuse" in failed.value.hint
    assert {path.name for path in tmp_path.iterdir()} == {"out.yaml"}


def test_a_plan_tells_of_all_steps_of_the_pass_and_where_it_ends(tiny, tmp_path):
    plan = done(tiny("gpt2"), tmp_path / "o", CONVERT, VALUES, SHORTER, LONGER, dry_run=True)
    rows = plan["steps"]
    assert [one["pass"] for one in rows] == [1, 1, 2, 2]
    assert [one["on_files"] for one in rows[:2]] == [None, None]
    assert rows[2]["on_files"] == "its contract is lossy, and not exact"
    assert [one["surgery"] for one in plan["receipts"]] == ["centre", "value-bias"]
    # the writers of three blocks, and the positions; a value bias goes into one of them
    assert plan["plan"]["tensors"]["changed"] == 3 * 4 + 1 + 3
    assert {path.name for path in tmp_path.iterdir()} == {"o.yaml"}


@pytest.mark.parametrize(
    ("steps", "together"),
    [
        ([CONVERT, NORM, LONGER], [[0, 1, 2]]),
        ([CONVERT, {"surgery": "prune", "drop": 1}, NORM, CONVERT], [[0], [1], [2, 3]]),
        ([CONVERT, {"surgery": "arrange", "blocks": "1,0"}, NORM], [[0], [1], [2]]),
        ([NORM, {"surgery": "fold", "what": "rotate"}, CONVERT], [[0, 1, 2]]),
        ([NORM, {"surgery": "fold", "what": "recalibrate"}], [[0], [1]]),
        ([{"surgery": "fold_bn"}, NORM, {"surgery": "heal", "teacher": "x"}], [[0, 1], [2]]),
    ],
)
def test_which_steps_are_to_be_one_pass(steps, together):
    found = groups(passes([_step(one) for one in steps]))
    assert [[place for one in group for place in one.places] for group in found] == together


def _step(values):
    options = {key: value for key, value in values.items() if key != "surgery"}
    return RecipeStep(values["surgery"], options)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"surgery": "prune", "drop": 1}, "runs the model"),
        ({"surgery": "remove_ln"}, "trains"),
        ({"surgery": "heal"}, "trains"),
        ({"surgery": "fold", "what": "recalibrate"}, "measures on a model"),
        ({"surgery": "arrange", "blocks": "0-3,5"}, "contract is lossy"),
        ({"surgery": "arrange", "blocks": "0-3,3"}, "contract is lossy"),
        ({"surgery": "arrange", "blocks": "zero,0-3,zero,4"}, ""),
        ({"surgery": "fold_bn", "form": "native"}, ""),
    ],
)
def test_why_a_step_needs_files(step, reason):
    found = why_on_files(_step(step))
    assert reason in found and bool(reason) == bool(found)


def test_the_last_limits_stand_and_nonfinite_numbers_need_every_leave():
    def handed(**more):
        return Handed(NOTHING, NOTHING, NOTHING, Writing(Path("x"), **more))

    strict = handed(max_shard_size="1GB", allow_nonfinite=True)
    made = fused._writing([strict, handed(), handed(max_shard_size="2GB")], Path("out"))
    assert (made.output, made.max_shard_size, made.allow_nonfinite) == (Path("out"), "2GB", False)
    assert fused._writing([strict, handed(allow_nonfinite=True)], Path("y")).allow_nonfinite


def test_a_step_that_turns_out_to_need_files_runs_alone_between_passes(tiny, tmp_path, monkeypatch):
    planned, ran = [], []

    def handing(given, directory, surgery):
        number = int(directory.name.rpartition("-")[2])
        planned.append(number)
        if number == 2:
            raise NotFusedError("it picks by score")
        document = {"command": "x", "source": {}, "receipts": []}
        return Handed(given, given, NOTHING, NOTHING, document, (), document)

    papers = {"source": {}, "verification": {"verdict": "pass"}}

    def made(target: Path) -> dict[str, Any]:
        target.mkdir(parents=True)
        (target / "surgery.json").write_text(json.dumps({"files": {}, **papers}))
        shutil.copy(tiny("gpt2") / "config.json", target)
        shutil.copy(tiny("gpt2") / "model.safetensors", target)
        return papers

    def alone(step, source, output, **more):
        ran.append(Path(output).name)
        return made(output)

    monkeypatch.setattr(chain, "hand_over", handing)
    monkeypatch.setattr(chain, "write_pass", lambda handed, target: made(target))
    recipe = Recipe(str(tiny("gpt2")), "out", (), {})
    steps = chain.Steps(recipe, alone, tmp_path)
    steps.run([_step(one) for one in (CONVERT, LONGER, NORM, CONVERT)])
    assert steps.passes == [[1], [2], [3, 4]]
    assert (planned, ran) == ([1, 2, 3, 4], ["step-2"])
    assert steps.reasons == {2: "it picks by score"}
    assert {path.name for path in tmp_path.iterdir()} == {"step-4"}
