"""`heal` from a directory to a directory, on a cut copy of the GPT-2 that the project ships."""

import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import normsurgery
from normsurgery.anatomy.runtime import quiet
from normsurgery.errors import (
    SurgeryError,
    UnsupportedModelError,
    UsageError,
    VerificationError,
)
from tests.conftest import TRAINED
from tests.train.tools import InterruptedRunError, StopsAt

KEPT = [0, 1, 2, 5]
TINY: dict[str, Any] = {"tokens": 6000, "max_length": 64, "batch_size": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The shipped model without two of its blocks, stored in bfloat16, with papers."""
    directory = tmp_path_factory.mktemp("cut") / "cut"
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(TRAINED)
        model.transformer.h = torch.nn.ModuleList(model.transformer.h[i] for i in KEPT)
        model.config.n_layer = len(KEPT)
        model.to(torch.bfloat16).save_pretrained(directory)
        AutoTokenizer.from_pretrained(TRAINED).save_pretrained(directory)
    blocks = {"before": 6, "after": 4, "dropped": [3, 4], "order": KEPT}
    (directory / "surgery.json").write_text(json.dumps({"blocks": blocks}))
    return directory


@pytest.fixture(scope="module", params=["lora", "head+last3", "full"])
def healed(request, cut, tmp_path_factory):
    """The result directory and document of each method."""
    out = tmp_path_factory.mktemp("healed") / "out"
    result = normsurgery.heal(
        cut, out, teacher=TRAINED, train=request.param, steps=25, hidden=0.1, **TINY
    )
    return request.param, out, result.to_dict()


def weights(directory):
    return load_file(directory / "model.safetensors")


def test_the_loss_on_text_that_did_not_train_falls(healed):
    _, _, document = healed
    assert len(document["losses"]) == 2
    own = next(iter(document["losses"].values()))
    means = {name: own[name]["mean"] for name in ("original", "before", "result")}
    assert means["original"] < means["result"] < means["before"]
    assert {"prompt", "original", "before", "result"} <= set(document["samples"][0])


def test_the_document_says_what_was_trained(healed):
    method, out, document = healed
    training = document["training"]
    assert document["command"] == "heal" and document["output"] == str(out)
    assert training["method"] == method and training["steps"] == 25
    assert [step for step, _ in training["loss"]] == list(range(1, 26))
    assert 0.9 * 25 * 4 * 63 < training["tokens"] <= 25 * 4 * 63  # an epoch's last batch is smaller
    assert set(training["final"]) == {"loss", "ce", "kl", "hidden"}
    receipt = document["receipts"][-1]
    assert receipt["contract"] == "trained" and receipt["surgery"] == "train"
    assert document["blocks"]["order"] == KEPT
    assert document["verification"]["verdict"] == "pass"
    assert document["verification"]["saved"]["error"] <= 1e-5


def test_the_files_keep_names_dtype_and_what_did_not_train(healed, cut):
    method, out, document = healed
    before, after = weights(cut), weights(out)
    assert {n: (t.dtype, t.shape) for n, t in before.items()} == {
        n: (t.dtype, t.shape) for n, t in after.items()
    }
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert 0 < len(moved) <= document["receipts"][-1]["tensors"]["changed"]
    assert ("transformer.wte.weight" in moved) == (method == "full")
    if method == "lora":
        assert all(re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name) for name in moved)
    assert (out / "tokenizer.json").read_bytes() == (cut / "tokenizer.json").read_bytes()


def test_the_papers_have_the_figures_and_no_path(healed, tmp_path):
    _, out, document = healed
    papers = json.loads((out / "surgery.json").read_text())
    assert papers["losses"] == document["losses"] and papers["training"] == document["training"]
    assert papers["recipe"]["steps"][0]["surgery"] == "heal"
    assert str(out.parent) not in json.dumps(papers)
    assert "trained" in (out / "README.md").read_text()
    assert [path.name for path in out.parent.iterdir()] == [out.name]  # the work directory is gone


def test_an_interrupted_heal_goes_on_to_the_same_bytes(cut, tmp_path):
    asked: dict[str, Any] = {
        "teacher": TRAINED,
        "steps": 6,
        "save_every": 2,
        "verify": False,
        **TINY,
    }
    normsurgery.heal(cut, tmp_path / "whole", **asked)
    with pytest.raises(InterruptedRunError):
        normsurgery.heal(cut, tmp_path / "out", progress=StopsAt(5), **asked)
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.heal").is_dir()
    with pytest.raises(UsageError, match="an interrupted run waits"):
        normsurgery.heal(cut, tmp_path / "out", **asked)
    with pytest.raises(UsageError, match="had another rate"):
        normsurgery.heal(cut, tmp_path / "out", resume=True, lr=0.5, **asked)
    result = normsurgery.heal(cut, tmp_path / "out", resume=True, **asked)
    assert result.to_dict()["verification"]["verdict"] == "skipped"
    assert weights(tmp_path / "out").keys() == weights(tmp_path / "whole").keys()
    one, two = (tmp_path / name / "model.safetensors" for name in ("out", "whole"))
    assert one.read_bytes() == two.read_bytes()
    assert not (tmp_path / ".out.heal").exists()


def test_a_plan_reads_no_text_and_writes_nothing(cut, tmp_path):
    document = normsurgery.heal(
        cut, tmp_path / "out", teacher=TRAINED, data="nowhere.txt", dry_run=True, lora_rank=4
    ).to_dict()
    assert document["output"] is None and list(tmp_path.iterdir()) == []
    widths = [96 + 288, 96 + 96, 96 + 384, 384 + 96]  # in and out of each linear
    assert document["training"]["trainable_parameters"] == 4 * 4 * sum(widths)
    assert document["plan"]["tensors"]["changed"] == 4 * 4


def test_another_dtype_is_stored_with_one_rounding(cut, tmp_path):
    options = {**TINY, "max_length": None}  # rows of what the model reads: 128 positions
    document = normsurgery.heal(
        cut, tmp_path / "out", teacher=TRAINED, steps=3, dtype="float32", **options
    ).to_dict()
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.float32}
    saved = document["verification"]["saved"]
    assert saved["passed"] and saved["rounding"] == 0.0
    assert [receipt["surgery"] for receipt in document["receipts"]] == ["cast", "train"]


def test_a_model_with_its_own_class_is_trained_in_it(tmp_path):
    """A graft that the stock class does not open; its teacher is the LayerNorm model."""
    normsurgery.convert(TRAINED, tmp_path / "graft", target="graft", verify=False)
    document = normsurgery.heal(
        tmp_path / "graft", tmp_path / "out", teacher=TRAINED, steps=3, hidden=0.0,
        trust_remote_code=True, **TINY,
    ).to_dict()  # fmt: skip
    assert document["target"]["form"] == "graft"
    assert document["verification"]["verdict"] == "pass"
    assert (tmp_path / "out" / "modeling_rmsnorm.py").is_file()


def test_a_checkpoint_with_two_ways_in_comes_out_with_one(tmp_path):
    normsurgery.convert(TRAINED, tmp_path / "dual", verify=False)
    document = normsurgery.heal(
        tmp_path / "dual", tmp_path / "out", teacher=TRAINED, steps=2, **TINY
    ).to_dict()
    assert any("modeling_rmsnorm.py is left out" in note for note in document["notes"])
    assert not (tmp_path / "out" / "modeling_rmsnorm.py").exists()
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_loss_that_is_not_finite_writes_nothing(cut, tmp_path, monkeypatch):
    from normsurgery.train import trainer

    monkeypatch.setattr(trainer, "cross_entropy", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(SurgeryError, match="training stopped at step 1: its loss is nan"):
        normsurgery.heal(cut, tmp_path / "out", teacher=TRAINED, steps=4, **TINY)
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_the_trained_model_are_not_published(cut, tmp_path, monkeypatch):
    from normsurgery.surgery import set_parameters

    honest = set_parameters._rounded
    monkeypatch.setattr(set_parameters, "_rounded", lambda *arguments: honest(*arguments) * 1.01)
    with pytest.raises(VerificationError, match="from the trained model's"):
        normsurgery.heal(cut, tmp_path / "out", teacher=TRAINED, steps=2, **TINY)
    assert not (tmp_path / "out").exists()


def test_streams_are_compared_only_where_the_papers_pair_the_blocks(cut, tmp_path):
    from shutil import copytree, ignore_patterns

    bare = copytree(cut, tmp_path / "bare", ignore=ignore_patterns("surgery.json"))
    with pytest.raises(UsageError, match=r"no surgery\.json"):
        normsurgery.heal(bare, tmp_path / "out", teacher=TRAINED, hidden=1.0, **TINY)


def test_what_cannot_be_trained_is_refused_before_anything_is_read(tiny, cut, tmp_path):
    with pytest.raises(UnsupportedModelError, match="ViTForImageClassification"):
        normsurgery.heal(tiny("vit"), tmp_path / "out", teacher=tiny("vit"))
    with pytest.raises(UsageError, match="different vocabularies: 99 tokens against 1024"):
        normsurgery.heal(cut, tmp_path / "out", teacher=tiny("gpt2"), steps=1, **TINY)
    with pytest.raises(UsageError, match="exists already"):
        normsurgery.heal(cut, tmp_path, teacher=TRAINED)
