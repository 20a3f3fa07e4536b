"""`remove-ln` from a directory to a directory, on tiny random models that read characters."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, GPT2LMHeadModel, LlamaForCausalLM

import normsurgery
from normsurgery.errors import (
    SurgeryError,
    UnsupportedModelError,
    UsageError,
    VerificationError,
)
from normsurgery.graft.load import load_graft_class
from normsurgery.report.progress import Silent
from tests.api.characters import with_characters
from tests.train.tools import InterruptedRunError, StopsAt

TEXT: dict[str, Any] = {"tokens": 3000, "max_length": 24, "batch_size": 4, "device": "cpu"}
SCHEDULE = """
steps: 16
start: 2
gap_mlp: 0.5
gap_qk: 0.5
gap_v: 1
gap_final: 1
gap_end: 1
gap_first: 1
warmup: 1
learning_rate: 5.0e-4
"""
CLASSES: dict[str, Any] = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: with_characters(tiny(name), root / name) for name in CLASSES}


@pytest.fixture(scope="module")
def gpt2(models):
    return models["gpt2"]


@pytest.fixture(scope="module")
def schedule(tmp_path_factory):
    file: Path = tmp_path_factory.mktemp("schedules") / "quick.yaml"
    file.write_text(SCHEDULE)
    return file


@pytest.fixture(
    scope="module",
    params=[("gpt2", "graft"), ("gpt2", "stock"), ("llama", "graft")],
    ids=lambda case: "-".join(case),
)
def trained(request, models, schedule, tmp_path_factory):
    """Family, export, directory and document of a result."""
    family, export = request.param
    out = tmp_path_factory.mktemp("trained") / "out"
    result = normsurgery.remove_ln(
        models[family], out, finetune=True, schedule=schedule, export=export, **TEXT
    )
    return family, export, out, result.to_dict()


def weights(directory):
    return load_file(directory / "model.safetensors")


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def opened(family, export, out):
    if export == "stock":
        return CLASSES[family].from_pretrained(out, dtype=torch.float32)
    found: Any = load_graft_class(out, "modeling_normfree.py", CLASSES[family].__name__)
    return found.from_pretrained(out, dtype=torch.float32)


def test_the_document_says_what_was_done(trained):
    _, export, out, document = trained
    assert document["command"] == "remove-ln" and document["output"] == str(out)
    assert document["export"] == export
    assert document["target"]["form"] == export
    kinds = [path["kind"] for path in document["paths"]]
    assert sorted(kinds) == sorted(["mlp", "qk", "v"] * 3 + ["final"])
    assert document["schedule"]["name"] == "quick" and document["schedule"]["steps"] == 16
    gone = [p for e in document["events"] if e["action"] == "remove" for p in e["paths"]]
    assert sorted(gone) == sorted(path["path"] for path in document["paths"])
    assert [e["paths"] for e in document["events"] if e["action"] == "merge"] == [
        ["end"], ["first"],
    ]  # fmt: skip
    training = document["training"]
    assert training["steps"] == 16 and [step for step, _ in training["loss"]] == list(range(1, 17))
    assert document["control"]["run"] and document["control"]["steps"] == 16
    contracts = {receipt["surgery"]: receipt["contract"] for receipt in document["receipts"]}
    assert contracts["train"] == "trained"
    assert document["verification"]["verdict"] == "pass"
    assert document["proof"]["errors"][export] <= 1e-9


def test_every_path_has_its_frozen_scale(trained):
    *_, document = trained
    assert {one["path"] for one in document["statistics"]} == {
        path["path"] for path in document["paths"]
    }
    steps = {p: e["step"] for e in document["events"] for p in e["paths"]}
    for one in document["statistics"]:
        assert one["sigma"] > 0 and one["removed_at"] == steps[one["path"]]
        assert 0.2 < one["drift"] < 5


def test_losses_of_original_control_and_result_are_on_two_texts(trained):
    *_, document = trained
    assert list(document["losses"]) == ["sample:prose", "sample:drama"]
    for entry in document["losses"].values():
        assert [name for name in entry if name != "source"] == ["original", "control", "result"]
        assert entry["result"]["mean"] < entry["original"]["mean"]  # a random model learns at once
    assert {"prompt", "original", "control", "result"} <= set(document["samples"][0])


def test_what_the_text_never_shows_is_counted(trained):
    *_, document = trained
    holes = document["vocabulary"]
    assert holes["size"] == 95 and 0 < holes["missing"] < 95
    assert any("never occur in the training text" in note for note in document["notes"])


def test_the_saved_files_open_and_give_the_measured_loss(trained):
    family, export, out, document = trained
    model = opened(family, export, out)
    assert not list(out.parent.glob(".*"))  # the work directory is gone
    saved = document["verification"]["saved"]
    assert saved["error"] <= saved["allowed"] and saved["allowed"] <= 1e-3
    assert torch.isfinite(logits(model, torch.arange(4, 20).unsqueeze(0))).all()


def test_a_norm_free_result_is_affine_between_attention_and_mlp(trained):
    """Twice the stream at the last norm's place is twice the logits: nothing normalizes."""
    family, export, out, _ = trained
    model = opened(family, export, out)
    last = "transformer.ln_f" if family == "gpt2" else "model.norm"
    body = model.transformer if family == "gpt2" else model.model
    ids = torch.arange(4, 20).unsqueeze(0)
    factor = [1.0]
    module = model.get_submodule(last) if export == "stock" else body.get_submodule(
        last.rpartition(".")[2]
    )  # fmt: skip
    module.register_forward_pre_hook(lambda _, args: (args[0] * factor[0], *args[1:]))
    found = []
    for factor[0] in (0.0, 1.0, 2.0):
        found.append(logits(model, ids).double())
    zero, one, two = found
    assert torch.allclose(two - zero, 2 * (one - zero), rtol=1e-3, atol=1e-4)


def test_the_stock_class_refuses_a_graft_and_opens_a_stock_result(trained):
    family, export, out, _ = trained
    names = weights(out)
    if export == "graft":
        with pytest.raises(Exception):  # noqa: B017 - whatever transformers refuses it with
            CLASSES[family].from_pretrained(out)
        assert not [name for name in names if ".ln_" in name or "norm" in name]
    else:
        config = AutoConfig.from_pretrained(out)
        eps = getattr(config, "layer_norm_epsilon", None) or config.rms_norm_eps
        assert (
            eps > 1
            and (eps.hex().startswith("0x1.0"))
            and not (out / "modeling_normfree.py").exists()
        )


def test_the_logits_of_a_graft_are_the_sum_of_what_the_blocks_add(trained):
    _, export, _, document = trained
    if export == "graft":
        found = document["linearity"]
        assert found["passed"] and found["contributions"] == 4 and found["error"] <= 1e-5
    else:
        assert "linearity" not in document


def test_the_papers_have_the_figures_and_no_path(trained):
    *_, out, document = trained
    papers = json.loads((out / "surgery.json").read_text())
    for key in ("losses", "training", "statistics", "vocabulary", "events"):
        assert papers[key] == document[key], key
    assert papers["recipe"]["steps"][0]["surgery"] == "remove_ln"
    assert papers["recipe"]["steps"][0]["schedule"] == "quick.yaml"
    assert str(out.parent) not in json.dumps(papers)
    card = (out / "README.md").read_text()
    assert "Which norms went" in card and "--schedule quick.yaml" in card
    assert (out / "tokenizer.json").is_file()


def test_fewer_sites_make_a_partial_graft(gpt2, schedule, tmp_path):
    document = normsurgery.remove_ln(
        gpt2, tmp_path / "out", finetune=True, schedule=schedule, sites="mlp,final",
        export="partial", control=False, **TEXT,
    ).to_dict()  # fmt: skip
    assert [path["kind"] for path in document["paths"]] == ["mlp"] * 3 + ["final"]
    names = weights(tmp_path / "out")
    assert [name for name in names if ".ln_1." in name] and not [n for n in names if "ln_2" in n]
    assert document["target"]["form"] == "graft" and document["export"] == "partial"
    assert document["verification"]["verdict"] == "pass"
    assert document["control"] == {"run": False, "why": "as asked"}
    assert "control" not in document["losses"]["sample:prose"]
    assert "some norms removed" in (tmp_path / "out" / "README.md").read_text()


@pytest.fixture(scope="module")
def uninterrupted(gpt2, schedule, tmp_path_factory):
    """What was asked for, the directory and the document of a run that was left alone."""
    asked: dict[str, Any] = {
        "finetune": True, "schedule": schedule, "save_every": 2, "verify": False, **TEXT,
    }  # fmt: skip
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    return asked, out, normsurgery.remove_ln(gpt2, out, **asked).to_dict()


@pytest.mark.parametrize(("task", "steps"), [("control", 5), ("train", 9)])
def test_an_interrupted_run_goes_on_to_the_same_bytes(gpt2, uninterrupted, tmp_path, task, steps):
    asked, directory, whole = uninterrupted
    with pytest.raises(InterruptedRunError):
        normsurgery.remove_ln(gpt2, tmp_path / "out", progress=Stops(task, steps), **asked)
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.remove-ln").is_dir()
    with pytest.raises(UsageError, match="an interrupted run waits"):
        normsurgery.remove_ln(gpt2, tmp_path / "out", **asked)
    with pytest.raises(UsageError, match="had another schedule"):
        normsurgery.remove_ln(gpt2, tmp_path / "out", resume=True, lr=0.5, **asked)
    document = normsurgery.remove_ln(gpt2, tmp_path / "out", resume=True, **asked).to_dict()
    assert document["verification"]["verdict"] == "skipped"
    one, two = (where / "model.safetensors" for where in (tmp_path / "out", directory))
    assert one.read_bytes() == two.read_bytes()
    assert document["control"]["loss"] == whole["control"]["loss"]
    assert document["losses"] == whole["losses"]
    assert not (tmp_path / ".out.remove-ln").exists()


class Stops(StopsAt):
    """Stops in the task of a name."""

    def __init__(self, task: str, steps: int) -> None:
        super().__init__(steps)
        self._task = task

    def task(self, description, total, unit):
        return super().task("train" if description == self._task else "other", total, unit)


def test_a_plan_reads_no_text_and_no_weight_and_writes_nothing(gpt2, tmp_path):
    document = normsurgery.remove_ln(
        gpt2, tmp_path / "out", finetune=True, data="nowhere.txt", dry_run=True,
        max_length=32, batch_size=2,
    ).to_dict()  # fmt: skip
    assert document["output"] is None and list(tmp_path.iterdir()) == []
    estimate = document["estimate"]
    assert estimate["steps"] == 3_000_000 // 64 and estimate["tokens"] == estimate["steps"] * 64
    assert estimate["flops"] == 6 * document["source"]["parameters"] * estimate["tokens"]
    assert document["events"][0]["action"] == "remove" and document["control"]["run"]
    tensors = document["plan"]["tensors"]
    assert tensors["dropped"] == 14  # γ and β of seven norms
    assert document["plan"]["config_diff"]["model_type"] == ["gpt2", "gpt2_normfree"]
    first = document["receipts"][0]
    assert (first["surgery"], first["contract"]) == ("train", "trained")


def test_a_plan_of_one_shot_promises_nothing(gpt2, tmp_path):
    document = normsurgery.remove_ln(
        gpt2, tmp_path / "out", one_shot=True, dry_run=True
    ).to_dict()  # fmt: skip
    assert document["receipts"][-1]["contract"] == document["plan"]["contract"] == "lossy"
    assert "train" not in {receipt["surgery"] for receipt in document["receipts"]}


def test_a_preview_measures_and_writes_nothing(gpt2, tmp_path):
    document = normsurgery.remove_ln(gpt2, tmp_path / "out", **TEXT).to_dict()
    assert document["preview"] and list(tmp_path.iterdir()) == []
    assert len(document["statistics"]) == len(document["sensitivity"]) == 10
    for entry in document["losses"].values():
        assert {"original", "one-shot"} <= set(entry)
    assert {one["path"] for one in document["sensitivity"]} == {
        one["path"] for one in document["statistics"]
    }
    assert any(one["added"] != 0 for one in document["sensitivity"])
    assert document["events"] and document["receipts"] == []


def test_one_shot_freezes_every_norm_and_trains_nothing(gpt2, tmp_path):
    preview = normsurgery.remove_ln(gpt2, tmp_path / "out", **TEXT).to_dict()
    document = normsurgery.remove_ln(gpt2, tmp_path / "out", one_shot=True, **TEXT).to_dict()
    assert document["receipts"][-1]["contract"] == "lossy"
    assert not {"training", "schedule", "control"} & set(document)
    for domain, entry in document["losses"].items():
        seen = preview["losses"][domain]
        assert entry["original"] == seen["original"]
        assert entry["result"]["mean"] == pytest.approx(seen["one-shot"]["mean"], abs=1e-5)
    assert document["verification"]["saved"]["passed"]
    assert "nothing was trained" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("teacher", ["original", "control", "none"])
def test_the_teacher_is_who_was_asked_for(gpt2, tmp_path, teacher):
    file = tmp_path / "kl.yaml"
    file.write_text(f"{SCHEDULE}ce: [1, 0]\nkl: [0, 1]\n")
    document = normsurgery.remove_ln(
        gpt2, tmp_path / "out", finetune=True, schedule=file, teacher=teacher, verify=False, **TEXT
    ).to_dict()
    training = document["training"]
    assert training["teacher"] == teacher
    assert ("kl" in training["final"]) == (teacher != "none")
    if teacher == "none":
        assert document["schedule"]["ce"] == [1.0, 1.0]
        assert document["schedule"]["kl"] == [0.0, 0.0]


def test_the_rate_that_is_asked_for_is_the_rate(gpt2, schedule, tmp_path):
    document = normsurgery.remove_ln(
        gpt2, tmp_path / "out", schedule=schedule, lr=1e-2, dry_run=True, **TEXT
    ).to_dict()
    found = document["schedule"]
    assert found["learning_rate"] == 1e-2
    assert found["min_learning_rate"] == pytest.approx(2e-4)  # its share of the rate stays


def test_a_published_schedule_makes_its_step_of_batches(gpt2, tmp_path):
    document = normsurgery.remove_ln(
        gpt2, tmp_path / "out", schedule="gpt2", dry_run=True, max_length=64, batch_size=8
    ).to_dict()
    assert document["estimate"]["tokens_per_step"] == 2**19
    assert document["estimate"]["tokens"] == 300 * 2**19


def test_another_dtype_is_stored_with_one_rounding(gpt2, schedule, tmp_path):
    document = normsurgery.remove_ln(
        gpt2, tmp_path / "out", finetune=True, schedule=schedule, dtype="bfloat16", control=False,
        **TEXT,
    ).to_dict()  # fmt: skip
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.bfloat16}
    saved = document["verification"]["saved"]
    assert saved["passed"] and saved["rounding"] > 1e-4


def test_what_cannot_be_done_is_refused_before_anything_is_read(tiny, gpt2, schedule, tmp_path):
    with pytest.raises(UnsupportedModelError, match="ViTForImageClassification"):
        normsurgery.remove_ln(tiny("vit"), tmp_path / "out", finetune=True)
    with pytest.raises(UsageError, match="there is no schedule 'gpt3'"):
        normsurgery.remove_ln(gpt2, tmp_path / "out", schedule="gpt3", **TEXT)
    with pytest.raises(UsageError, match="exists already"):
        normsurgery.remove_ln(gpt2, tmp_path, finetune=True)
    with pytest.raises(UsageError, match="has no tokenizer"):
        normsurgery.remove_ln(tiny("gpt2"), tmp_path / "out", finetune=True)
    with pytest.raises(UsageError, match="less than one step"):
        normsurgery.remove_ln(gpt2, tmp_path / "out", tokens=10, max_length=24)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_writes_nothing(gpt2, schedule, tmp_path, monkeypatch):
    from normsurgery.train import trainer

    monkeypatch.setattr(trainer, "cross_entropy", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(SurgeryError, match="diverged at step 1: its loss is nan"):
        normsurgery.remove_ln(
            gpt2, tmp_path / "out", finetune=True, schedule=schedule, control=False, **TEXT
        )
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_the_trained_model_are_not_published(
    gpt2, schedule, tmp_path, monkeypatch
):
    from normsurgery.surgery import set_parameters

    honest = set_parameters._rounded
    monkeypatch.setattr(set_parameters, "_rounded", lambda *arguments: honest(*arguments) * 1.01)
    with pytest.raises(VerificationError, match="from those of the model in memory"):
        normsurgery.remove_ln(
            gpt2, tmp_path / "out", finetune=True, schedule=schedule, control=False, **TEXT
        )
    assert not (tmp_path / "out").exists()


class Told(Silent):
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def tell(self, kind, facts):
        self.heard.append((kind, dict(facts)))


def test_the_plan_is_told_before_the_first_step_and_then_each_step(gpt2, schedule, tmp_path):
    told = Told()
    normsurgery.remove_ln(
        gpt2, tmp_path / "out", finetune=True, schedule=schedule, verify=False, control=False,
        progress=told, **TEXT,
    )  # fmt: skip
    kinds = [kind for kind, _ in told.heard]
    assert kinds == ["plan", *["removal"] * 16]
    plan, last = told.heard[0][1], told.heard[-1][1]
    assert plan["events"] and plan["vocabulary"] and plan["estimate"]["passes"] > 0
    assert (last["step"], last["steps"], last["last"]) == (16, 16, "first")


def test_a_recipe_removes_norms(gpt2, schedule, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"source: {gpt2}\noutput: {tmp_path / 'out'}\ndevice: cpu\nsteps:\n"
        f"- {{surgery: remove_ln, finetune: true, schedule: {schedule}, tokens: 3000, "
        "max_length: 24, batch_size: 4, control: false}\n"
    )
    document = normsurgery.run(recipe).to_dict()
    assert document["command"] == "run" and document["training"]["steps"] == 16
    assert (tmp_path / "out" / "modeling_normfree.py").is_file()
