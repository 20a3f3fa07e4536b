"""Verification on CUDA."""

from __future__ import annotations

import pytest
import torch

from tests.verify.helpers import cast, centre_gpt2, edited, find, verified

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_centred_writers_pass_and_damage_fails_on_cuda(trained, tmp_path, dtype):
    source = edited(trained, tmp_path / "source", cast(getattr(torch, dtype)))
    found = verified(source, edited(source, tmp_path / "centred", centre_gpt2), device="auto")
    assert found.device.startswith("cuda")
    assert found.verdict == "pass", found.reasons

    def transpose(tensors):
        name = find(tensors, "h.3.attn.c_proj.weight")
        tensors[name] = tensors[name].T.contiguous()

    damaged = edited(source, tmp_path / "damaged", transpose)
    assert verified(source, damaged, device="cuda").verdict == "fail"


def test_tf32_is_off_while_verifying(trained, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    floor = verified(trained, trained, device="cuda").outputs["logits"].floor
    assert floor is not None
    assert floor.rest.max < 1e-3  # TF32 keeps 10 bits: about 0.02 on this model
    assert torch.backends.cuda.matmul.allow_tf32
