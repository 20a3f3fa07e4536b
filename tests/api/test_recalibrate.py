"""`fold --what recalibrate` on a trained ResNet that was pruned, live or folded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

import normsurgery
from normsurgery.calibrate.arrays.samples import Samples, held_out
from normsurgery.errors import UnsupportedModelError, UsageError, VerificationError
from tests.digits import accuracy, as_inputs, digits, logits_of
from tests.verify.helpers import edited


def pruned(tensors: dict[str, Tensor]) -> None:
    """Half of every convolution's weights, the smallest, set to zero."""
    for name, tensor in tensors.items():
        if tensor.dim() == 4:
            threshold = tensor.abs().flatten().median()
            tensors[name] = torch.where(tensor.abs() > threshold, tensor, 0.0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("samples") / "digits.npz"
    pixels, labels, _, _ = digits()
    np.savez(path, pixel_values=as_inputs(pixels[:200]).numpy(), labels=labels[:200])
    return path


@pytest.fixture(scope="module")
def folded(classifier, tmp_path_factory) -> Path:
    out: Path = tmp_path_factory.mktemp("folded") / "resnet"
    normsurgery.fold_bn(classifier("resnet"), out, verify=False)
    return out


def scored(directory: Path) -> tuple[float, float]:
    """Accuracy and loss on digits that neither training nor recalibrating saw."""
    model = transformers.ResNetForImageClassification.from_pretrained(directory).eval()
    logits, labels = logits_of(model, digits()[2]), digits()[3]
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    return accuracy(logits, labels), float(loss)


def recalibrate(source: Path, out: Path, data: Path, **options: Any) -> dict[str, Any]:
    return normsurgery.fold(source, out, what="recalibrate", data=data, **options).document


def test_a_pruned_model_gets_its_accuracy_back(classifier, samples, tmp_path):
    damaged = edited(classifier("resnet"), tmp_path / "pruned", pruned)
    document = recalibrate(damaged, tmp_path / "out", samples)
    (accuracy_before, loss_before), (accuracy_after, loss_after) = (
        scored(damaged), scored(tmp_path / "out"),
    )  # fmt: skip
    assert accuracy_before < 0.85
    assert accuracy_after > 0.94
    assert loss_after < loss_before / 2
    told = document["recalibration"]
    assert (told["norms"], told["reinserted"]) == (6, 0)
    assert (told["samples"], told["held_out"]) == (150, 50)
    assert told["after"]["loss"] < told["before"]["loss"]
    assert told["after"]["error"] is None
    assert document["verification"]["verdict"] == "pass"
    assert document["receipts"][0]["contract"] == "fitted"
    assert document["receipts"][0]["tensors"]["changed"] <= 24
    papers = json.loads((tmp_path / "out/surgery.json").read_text())
    assert papers["recalibration"] == told
    assert str(tmp_path) not in (tmp_path / "out/surgery.json").read_text()
    card = (tmp_path / "out/README.md").read_text()
    assert "ResNetForImageClassification, BatchNorms recalibrated" in card
    assert "statistics are those of digits.npz" in card
    assert "over 128 samples" in card
    assert " text" not in card.split("## What is not guaranteed")[1]


def test_norms_that_were_folded_are_put_back(classifier, folded, samples, tmp_path):
    damaged = edited(folded, tmp_path / "pruned", pruned)
    with pytest.raises(UnsupportedModelError, match="--reference ORIGINAL"):
        recalibrate(damaged, tmp_path / "out", samples)
    document = recalibrate(damaged, tmp_path / "out", samples, reference=classifier("resnet"))
    assert document["recalibration"]["reinserted"] == 6
    assert scored(tmp_path / "out")[0] > max(0.94, scored(damaged)[0] + 0.05)
    tensors = load_file(tmp_path / "out/model.safetensors")
    variances = [t for name, t in tensors.items() if name.endswith("running_var")]
    assert all(float(v.std()) > 0 for v in variances)


def test_without_labels_the_original_tells_what_is_better(classifier, folded, samples, tmp_path):
    bare = tmp_path / "bare.npz"
    np.savez(bare, pixel_values=np.load(samples)["pixel_values"])
    damaged = edited(folded, tmp_path / "pruned", pruned)
    document = recalibrate(damaged, tmp_path / "out", bare, reference=classifier("resnet"))
    told = document["recalibration"]
    assert told["before"]["loss"] is None
    assert told["after"]["error"] < 0.6 * told["before"]["error"]
    with pytest.raises(UsageError, match="without labels"):
        recalibrate(classifier("resnet"), tmp_path / "again", bare)


def test_what_does_not_help_is_not_written(classifier, tmp_path):
    """Statistics of noise, judged on digits: the model that was trained is better."""
    pixels, labels, _, _ = digits()
    inputs = as_inputs(pixels[:40])
    numbered = Samples(tuple({"x": torch.tensor([i])} for i in range(40)))
    measured_on = [int(row["x"]) for row in held_out(numbered, 0.25, seed=0)[0].rows]
    noise = torch.randn(30, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs[measured_on] = 3 * noise
    data = tmp_path / "noise.npz"
    np.savez(data, pixel_values=inputs.numpy(), labels=labels[:40])
    with pytest.raises(VerificationError, match=r"held-out loss goes from .* to .*"):
        recalibrate(classifier("resnet"), tmp_path / "out", data)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_measures_and_writes_nothing(classifier, samples, tmp_path):
    damaged = edited(classifier("resnet"), tmp_path / "pruned", pruned)
    document = recalibrate(damaged, tmp_path / "out", samples, dry_run=True)
    assert document["plan"]["contract"] == "fitted"
    assert document["recalibration"]["after"]["loss"] < document["recalibration"]["before"]["loss"]
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_recalibrated_is_refused(classifier, samples, tiny, tmp_path):
    source, out = classifier("resnet"), tmp_path / "out"
    with pytest.raises(UsageError, match="measures on data"):
        normsurgery.fold(source, out, what="recalibrate")
    with pytest.raises(UsageError, match="no file or folder"):
        recalibrate(source, out, tmp_path / "nowhere")
    with pytest.raises(UnsupportedModelError, match="no BatchNorm"):
        recalibrate(classifier("vit"), out, samples)
    few = tmp_path / "few.npz"
    np.savez(few, pixel_values=np.zeros((3, 3, 16, 16)), labels=np.zeros(3, int))
    with pytest.raises(UsageError, match="holds 3 samples"):
        recalibrate(source, out, few)
    other = tmp_path / "other"
    shutil.copytree(classifier("mobilenet_v2"), other)
    with pytest.raises(UsageError, match="other BatchNorms"):
        recalibrate(source, out, samples, reference=other)
