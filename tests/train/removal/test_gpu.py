"""Norms that go on CUDA, under bfloat16 autocast."""

from __future__ import annotations

import pytest
import torch

import normsurgery

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("export", ["graft", "stock"])
def test_the_saved_files_are_what_trained_on_cuda(trained, tmp_path, export):
    document = normsurgery.remove_ln(
        trained, tmp_path / "out", finetune=True, data="sample:prose", tokens=20_000,
        max_length=64, batch_size=4, export=export, teacher="original", control=True, bf16=True,
        device="cuda",
    ).to_dict()  # fmt: skip
    assert document["verification"]["verdict"] == "pass"
    assert document["training"]["retries"] == 0
    own = next(iter(document["losses"].values()))
    assert own["result"]["mean"] < own["original"]["mean"] + 1.0
