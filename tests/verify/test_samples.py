"""Two checkpoints are compared on the user's own images or arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normsurgery.errors import UsageError
from normsurgery.verify.inputs import Plan, plan_inputs
from normsurgery.verify.load import load_model
from normsurgery.verify.sources import ModelSource
from tests.verify.helpers import edited, find, verified


@pytest.fixture
def images(tmp_path) -> Path:
    path: Path = tmp_path / "images.npz"
    pixels = np.random.default_rng(0).normal(size=(20, 3, 32, 32))
    np.savez(path, pixel_values=pixels, labels=np.arange(20) % 2)
    return path


def planned(directory: Path, scratch: Path, data: Path) -> Plan:
    options: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu")}
    with load_model(ModelSource(directory), scratch=scratch, **options) as loaded:
        return plan_inputs(
            loaded.model, directory, data=data, tokens=200, max_length=32, seed=0
        )  # fmt: skip


def test_the_plan_holds_the_user_s_samples_with_their_labels(tiny, tmp_path, images):
    plan = planned(tiny("vit"), tmp_path, images)
    assert plan.kind == "samples"
    assert sum(batch.positions for batch in plan.batches) == 20
    given = torch.cat([batch.inputs["pixel_values"] for batch in plan.batches])
    assert torch.equal(given, torch.from_numpy(np.load(images)["pixel_values"]).float())
    labels = [batch.labels for batch in plan.batches]
    assert torch.cat([one for one in labels if one is not None]).tolist() == [0, 1] * 10


def test_what_the_data_lacks_of_a_forward_is_made_up(tiny, tmp_path, images):
    plan = planned(tiny("clip"), tmp_path, images)
    batch = plan.batches[0]
    assert len(batch.inputs["input_ids"]) == len(batch.inputs["pixel_values"]) == 8


def test_losses_and_agreement_are_of_the_user_s_labels(tiny, tmp_path, images):
    def shift(tensors: dict[str, torch.Tensor]) -> None:
        tensors[find(tensors, "classifier.bias")][1] += 50

    biased = edited(tiny("vit"), tmp_path / "biased", shift)
    document = verified(tiny("vit"), biased, data=images, contract="lossy").to_dict()
    losses = document["loss"]
    assert losses["reference"]["mean"] < 2
    assert losses["candidate"]["mean"] == pytest.approx(25, abs=1)  # half the labels are 0
    assert (document["tokens"], document["unit"]) == (20, "samples")
    same = verified(tiny("vit"), tiny("vit"), data=images)
    assert same.passed
    assert same.to_dict()["top1"] == 1


def test_text_is_no_image(tiny, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("some words")
    with pytest.raises(UsageError, match=r"takes pixel_values, text\.txt is none") as caught:
        planned(tiny("vit"), tmp_path, text)
    assert "npz" in caught.value.hint
