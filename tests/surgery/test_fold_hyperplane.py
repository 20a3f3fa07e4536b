"""A linear that reads a norm's output raw is made to ignore the mean, and only where it can be."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from normsurgery.api.operation import Request
from normsurgery.api.rmsnorm import plan_operation
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.fold_hyperplane import ignoring_mean

WIDTH = 12


@pytest.mark.parametrize("dim", [0, 1])
def test_the_folded_matrix_ignores_the_mean_and_agrees_on_the_hyperplane(dim):
    generator = torch.Generator().manual_seed(0)
    gamma = torch.rand(WIDTH, generator=generator, dtype=torch.float64) + 0.5
    weight = torch.randn(7, WIDTH, generator=generator, dtype=torch.float64)
    stored = weight.T.contiguous() if dim == 0 else weight
    folded = ignoring_mean(stored, direction=1 / gamma, dim=dim)
    folded = folded.T if dim == 0 else folded
    ones = torch.ones(WIDTH, dtype=torch.float64)
    assert (folded @ ones).abs().max() < 1e-14
    row = torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    value = gamma * (row - row.mean())
    assert torch.allclose(folded @ value, weight @ value, rtol=0, atol=1e-13)
    assert torch.allclose(folded @ (value - value.mean()), weight @ value, rtol=0, atol=1e-13)


def test_a_gain_near_zero_is_refused(tiny, tmp_path):
    source = open_checkpoint(tiny("modernbert"))
    assert plan_operation(source, Request()).operate(source)[1][0].surgery == "fold-hyperplane"
    tensors = load_file(tiny("modernbert") / "model.safetensors")
    tensors["model.embeddings.norm.weight"][3] = 1e-6
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((tiny("modernbert") / "config.json").read_bytes())
    thin = open_checkpoint(tmp_path)
    with pytest.raises(UnsupportedModelError, match="too close to zero"):
        plan_operation(thin, Request()).operate(thin)
