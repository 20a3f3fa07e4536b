"""The public function: its document, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

import normsurgery
from normsurgery.errors import CheckpointError, UsageError
from tests.verify.helpers import cast, centre_gpt2, edited, find

KEYS = {
    "verdict", "contract", "dtype", "device", "tokens", "noise_floor", "logits", "kl", "top1",
    "loss", "generation_identical", "load_report",
}  # fmt: skip


def test_the_document_has_the_shape_that_programs_read(trained, tmp_path):
    centred = edited(trained, tmp_path / "centred", centre_gpt2)
    result = normsurgery.verify(trained, str(centred), tokens=200, max_length=64, device="cpu")
    document = result.to_dict()
    assert result.passed
    assert list(document) == [
        "command", "version", "source", "candidate", "verification", "seconds",
        "peak_memory_bytes",
    ]  # fmt: skip
    assert document["command"] == "verify"
    assert document["source"]["architecture"] == "GPT2LMHeadModel"
    assert document["source"]["parameters"] == document["candidate"]["parameters"] > 0
    verification = document["verification"]
    assert set(verification) >= KEYS
    assert set(verification["logits"]) >= {"max", "p999", "mean", "std", "ratio"}
    assert set(verification["kl"]) == {"mean", "p999", "max"}
    for side in ("reference", "candidate"):
        assert set(verification["loss"][side]) == {"mean", "median", "p999", "max"}
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_a_failing_verdict_is_returned_not_raised(trained, tmp_path):
    def edit(tensors):
        tensors[find(tensors, "h.2.ln_1.weight")] *= 2

    damaged = edited(trained, tmp_path / "damaged", edit)
    result = normsurgery.verify(trained, damaged, tokens=64, device="cpu")
    assert not result.passed
    verification = result.to_dict()["verification"]
    assert verification["verdict"] == "fail"
    assert "logits: error is" in verification["why"]


def test_dtype_lowers_what_is_promised(trained, tmp_path):
    rounded = edited(trained, tmp_path / "rounded", cast(torch.bfloat16))
    assert not normsurgery.verify(trained, rounded, tokens=64, device="cpu").passed
    assert normsurgery.verify(trained, rounded, tokens=64, dtype="bfloat16", device="cpu").passed


def test_the_own_text_is_read(trained, tmp_path):
    data = tmp_path / "text.txt"
    data.write_text("It was the best of times, it was the worst of times. " * 4)
    found = normsurgery.verify(trained, trained, data=data, device="cpu").to_dict()["verification"]
    assert 20 < found["tokens"] < 200


def test_refusals(trained, tiny, tmp_path):
    with pytest.raises(UsageError, match="different tasks"):
        normsurgery.verify(trained, tiny("vit"))
    with pytest.raises(CheckpointError):
        normsurgery.verify(trained, tmp_path)
    with pytest.raises(UsageError, match="unknown contract"):
        normsurgery.verify(trained, trained, contract="fair")
