"""`prune` from a directory to a verified directory, on the trained GPT-2 that the project ships."""

from __future__ import annotations

import json
from shutil import copyfile
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import normsurgery
from normsurgery import UnsupportedModelError, UsageError
from normsurgery.api.prune import NOTHING_FITTED
from normsurgery.report import render
from normsurgery.report.progress import Silent
from tests.calibrate.language_models import LANGUAGE_MODELS
from tests.families import build_spec

SHORT: dict[str, Any] = {"tokens": 3072, "max_length": 128}


def weights(directory):
    return load_file(directory / "model.safetensors")


@pytest.fixture(autouse=True)
def little_is_judged(monkeypatch):
    """Held-out losses on a few rows: what is tested here is where they come from."""
    monkeypatch.setattr("normsurgery.api.texts.JUDGED_TOKENS", 1024)


@pytest.fixture(scope="module")
def healed(trained, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normsurgery.api.texts.JUDGED_TOKENS", 2048)
        out = tmp_path_factory.mktemp("prune") / "out"
        document = normsurgery.prune(
            trained, out, drop=2, substitute="merge", heal="sequential",
            tokens=12_288, max_length=128,
        ).to_dict()  # fmt: skip
    return out, document


def test_named_blocks_go_and_no_weight_changes(trained, tmp_path):
    document = normsurgery.prune(trained, tmp_path / "out", drop="1,3-4", **SHORT).to_dict()
    before, after = weights(trained), weights(tmp_path / "out")
    for new, old in enumerate([0, 2, 5]):
        for name in (n for n in before if f".h.{old}." in n):
            assert torch.equal(after[name.replace(f".h.{old}.", f".h.{new}.")], before[name])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["n_layer"] == 3
    assert document["blocks"] == {
        "stack": "transformer.h", "before": 6, "after": 3, "order": [0, 2, 5], "dropped": [1, 3, 4],
    }  # fmt: skip
    assert document["method"] == "named" and document["scores"] == []
    assert document["verification"]["contract"] == "lossy"


def test_the_plain_drop_and_the_result_are_the_same_where_nothing_is_fitted(trained, tmp_path):
    """Two paths to one number: the source without these blocks, block by block, and the saved
    files in the stock class."""
    document = normsurgery.prune(trained, tmp_path / "out", drop="2-3", **SHORT).to_dict()
    assert set(document["losses"]) == {"calibration", "other"}
    for figures in document["losses"].values():
        assert figures["result"]["mean"] == pytest.approx(figures["drop"]["mean"], rel=1e-5)
        assert figures["result"]["max"] == pytest.approx(figures["drop"]["max"], rel=1e-4)
        assert figures["original"]["mean"] < figures["drop"]["mean"]
        assert figures["original"]["tokens"] == figures["result"]["tokens"] > 500


def test_text_chooses_a_window_and_every_score_is_kept(trained, tmp_path):
    out = tmp_path / "out"
    document = normsurgery.prune(trained, out, drop="34%", explain=True, **SHORT).to_dict()
    windows: dict[Any, float] = {
        tuple(entry["blocks"]): entry["angular"] for entry in document["scores"]
    }
    assert sorted(windows) == [(n, n + 1) for n in range(5)]
    assert document["blocks"]["dropped"] == list(min(windows, key=lambda blocks: windows[blocks]))
    assert {"influence", "fit"} <= set(document["scores"][1])
    papers = json.loads((out / "surgery.json").read_text())
    assert papers["scores"] == document["scores"] and papers["losses"] == document["losses"]
    assert papers["recipe"]["steps"][0]["method"] == "angular"
    assert [one["name"] for one in papers["plots"]] == ["block-scores", "losses"]
    assert (out / "plots" / "block-scores.png").read_bytes().startswith(b"\x89PNG")


def test_iterative_measures_again_after_each_block(trained, tmp_path):
    document = normsurgery.prune(
        trained, tmp_path / "out", drop=2, iterative=True, method="influence", verify=False, **SHORT
    ).to_dict()
    rounds = [
        [entry for entry in document["scores"] if entry["round"] == number] for number in (0, 1)
    ]
    assert [len(entries) for entries in rounds] == [6, 5]
    best = [min(entries, key=lambda e: e["influence"])["blocks"][0] for entries in rounds]
    assert document["blocks"]["dropped"] == sorted(best)


def test_what_is_fitted_wins_loss_back_on_text_that_it_has_not_seen(healed):
    _, document = healed
    for figures in document["losses"].values():
        original, drop, result = (figures[name]["mean"] for name in ("original", "drop", "result"))
        assert original < result < drop
    won = document["losses"]["calibration"]
    lost = won["drop"]["mean"] - won["original"]["mean"]
    assert won["drop"]["mean"] - won["result"]["mean"] > 0.4 * lost


def test_the_papers_tell_of_the_fit(healed):
    out, document = healed
    assert document["method"] == "trial"
    trials = [entry for entry in document["scores"] if "trial" in entry]
    assert min(trials, key=lambda entry: entry["trial"])["blocks"] == document["blocks"]["dropped"]
    assert document["verification"]["contract"] == "fitted"
    assert document["receipts"][0]["contract"] == "fitted"
    steps = [step for step in document["healing"]["steps"] if "accepted" in step]
    assert all(step["after"] < step["before"] for step in steps if step["accepted"])
    assert any(step["accepted"] for step in steps)
    about = document["calibration"]
    assert about["source"] == "sample:prose" and len(about["sha256"]) == 64
    assert len(document["samples"]) == 4
    assert all({"prompt", "original", "result"} <= set(sample) for sample in document["samples"])
    card = (out / "README.md").read_text()
    assert "fitted" in card and "won back" in card


def test_the_same_request_gives_the_same_bytes(healed, trained, tmp_path):
    out, document = healed
    dropped = ",".join(map(str, document["blocks"]["dropped"]))
    normsurgery.prune(
        trained, tmp_path / "again", drop=dropped, substitute="merge", heal="sequential",
        tokens=12_288, max_length=128, verify=False,
    )  # fmt: skip
    assert weights(out).keys() == weights(tmp_path / "again").keys()
    for name, tensor in weights(tmp_path / "again").items():
        assert torch.equal(tensor, weights(out)[name])


class Interrupting(Silent):
    """A progress that is interrupted at the n-th task."""

    def __init__(self, at):
        self.left = at

    def task(self, description, total, unit):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().task(description, total, unit)


def test_an_interrupted_measurement_leaves_no_output_and_goes_on(trained, tmp_path):
    out, kept = tmp_path / "out", tmp_path / ".out.calibration"
    options: dict[str, Any] = {"drop": 2, "iterative": True, "verify": False, **SHORT}
    with pytest.raises(KeyboardInterrupt):
        normsurgery.prune(trained, out, progress=Interrupting(2), **options)
    assert not out.exists() and any(kept.iterdir())
    again = normsurgery.prune(trained, out, **options).to_dict()
    assert not kept.exists()
    fresh = normsurgery.prune(trained, tmp_path / "fresh", **options).to_dict()
    assert again["scores"] == fresh["scores"] and again["blocks"] == fresh["blocks"]


def test_few_tokens_are_warned_of_and_too_few_refused(trained, tmp_path):
    options: dict[str, Any] = {
        "drop": "3",
        "substitute": "refit",
        "max_length": 128,
        "verify": False,
    }
    document = normsurgery.prune(trained, tmp_path / "out", method="last", tokens=1024, **options)
    notes = " ".join(document.to_dict()["receipts"][0]["notes"])
    assert "below 4 it describes its text more" in notes
    with pytest.raises(UsageError, match="cannot determine a fit"):
        normsurgery.prune(trained, tmp_path / "none", drop="2-3", tokens=256, **{
            key: value for key, value in options.items() if key != "drop"
        })  # fmt: skip
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_trials_look_at_all_of_the_text_where_a_part_is_too_little(trained, tmp_path):
    """1,000 tokens are enough for 481 regressors, a quarter of them is not."""
    document = normsurgery.prune(
        trained, tmp_path / "out", drop=1, substitute="refit", tokens=1024, max_length=128,
        verify=False,
    ).to_dict()  # fmt: skip
    assert document["method"] == "trial"
    assert len([entry for entry in document["scores"] if "trial" in entry]) >= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": 6}, "6 of 6 blocks"),
        ({"drop": "2-9"}, "no block 9"),
        ({"drop": "two"}, "is no block"),
        ({"drop": 2, "method": "trial"}, "nothing is to be fitted"),
        ({"drop": 2, "method": "last", "iterative": True}, "no single block"),
        ({"drop": 2, "data": "no/such-data-set"}, "no/such-data-set"),
        ({"drop": 2, "stack": "encoder"}, "encoder"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_nothing_is_written(
    trained, tmp_path, options, message
):
    with pytest.raises(normsurgery.SurgeryError, match=message):
        normsurgery.prune(trained, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_stack_without_a_language_head_is_cut_by_number_only(tiny, tmp_path):
    model = tiny("vit")
    with pytest.raises(UnsupportedModelError, match="language head"):
        normsurgery.prune(model, tmp_path / "out", drop=1)
    document = normsurgery.prune(model, tmp_path / "out", drop=1, method="last").to_dict()
    assert document["verification"]["verdict"] == "pass" and "losses" not in document


def test_a_model_without_a_tokenizer_is_cut_and_the_losses_are_missing(tiny, tmp_path):
    document = normsurgery.prune(tiny("llama"), tmp_path / "out", drop="0-0").to_dict()
    assert document["verification"]["verdict"] == "pass" and "losses" not in document
    assert any("no losses are reported" in note for note in document["notes"])
    with pytest.raises(UsageError, match="tokenizer"):
        normsurgery.prune(tiny("llama"), tmp_path / "none", drop=1)


def test_a_converted_checkpoint_keeps_one_way_in(trained, tmp_path):
    """Its RMSNorm class relies on a centred stream, and fitted weights are not centred."""
    normsurgery.convert(trained, tmp_path / "rms", verify=False)
    document = normsurgery.prune(
        tmp_path / "rms", tmp_path / "out", drop="2-2", substitute="refit", verify=False, **SHORT
    ).to_dict()
    assert not (tmp_path / "out" / "modeling_rmsnorm.py").exists()
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert any("left out" in note for note in document["notes"])


def test_a_dry_run_fits_and_writes_nothing(trained, tmp_path):
    document = normsurgery.prune(
        trained, tmp_path / "out", drop="2-2", substitute="refit", dry_run=True
    ).to_dict()
    assert document["plan"]["contract"] == "fitted" and document["output"] is None
    assert document["plan"]["tensors"]["dropped"] == 12
    normsurgery.prune(trained, tmp_path / "out", drop=1, dry_run=True, **SHORT)  # measures
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_the_user_s_is_not_taken_for_ours(trained, tmp_path):
    kept = tmp_path / ".out.calibration" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(UsageError, match="not a directory of ours"):
        normsurgery.prune(trained, tmp_path / "out", drop=1, **SHORT)
    assert kept.read_text() == "mine"
    normsurgery.prune(trained, tmp_path / "out", drop="1-1", **SHORT)  # measures nothing before
    assert kept.read_text() == "mine"


def test_the_other_domain_is_another(trained, tmp_path):
    document = normsurgery.prune(
        trained, tmp_path / "out", drop="1-1", data="sample:drama", **SHORT
    ).to_dict()
    sources = {name: entry["source"]["source"] for name, entry in document["losses"].items()}
    assert sources == {"calibration": "sample:drama", "other": "sample:prose"}


@pytest.mark.parametrize("family", ["gemma2", "mixtral"])
def test_what_cannot_be_refitted_is_told_and_the_rest_is(trained, tmp_path, family):
    """A norm behind both writers; experts in place of the MLP."""
    model = tmp_path / family
    class_name, config_name, options = LANGUAGE_MODELS[family]
    build_spec((class_name, config_name, {**options, "vocab_size": 1024}), model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        copyfile(trained / name, model / name)
    out = tmp_path / "out"
    document = normsurgery.prune(
        model, out, drop="1-1", substitute="refit", heal="sequential", tokens=2048, max_length=64
    ).to_dict()
    skipped = [step for step in document["healing"]["steps"] if "skipped" in step]
    fitted = [step for step in document["healing"]["steps"] if "skipped" not in step]
    assert skipped and bool(fitted) == (family == "mixtral")
    assert document["verification"]["verdict"] == "pass"
    assert "cannot be refitted" in (out / "README.md").read_text()
    assert (NOTHING_FITTED in document["notes"]) == (family == "gemma2")
    assert any(render(document))
