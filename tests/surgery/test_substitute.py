"""Fitted weights in a checkpoint's own dialect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.stacks import choose_stack, read_stacks
from normsurgery.checkpoint import Checkpoint, open_checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.substitute import substitute_weights
from tests.calibrate.language_models import LANGUAGE_MODELS
from tests.families import build_spec


def opened(name: str, directory: Path, dtype: str = "float32") -> tuple[Checkpoint, Examination]:
    build_spec(LANGUAGE_MODELS[name], directory / name, dtype=dtype)
    checkpoint = open_checkpoint(directory / name)
    return checkpoint, examine(checkpoint)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("llama", "mlp.down_proj.weight"),
        ("gpt2", "mlp.c_proj.weight"),  # [in, out]
        ("mixtral", "mlp.experts.down_proj"),  # one tensor an expert on disk
        ("phi3", "mlp.gate_up_proj.weight"),
    ],
)
def test_new_weight_is_read_back_by_the_stock_class(name: str, weight: str, tmp_path: Path) -> None:
    import transformers

    checkpoint, examination = opened(name, tmp_path)
    stack = choose_stack(read_stacks(examination))
    parameter = f"{stack.blocks[1]}.{weight}"
    model_class = getattr(transformers, checkpoint.config["architectures"][0])
    shape = model_class.from_pretrained(tmp_path / name).get_parameter(parameter).shape
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result, receipt = substitute_weights(
        checkpoint, examination.names, {parameter: value}, parameters={"substitute": "refit"}
    )
    state = {
        disk: result[disk].load() for disk, part in examination.names.parts.items()
        if part.parameter == parameter
    }  # fmt: skip
    assert set(receipt.changed) == set(state)
    assert state
    for disk, stored in state.items():
        assert torch.equal(stored, examination.names.parts[disk].cut(value))
        assert stored.shape == checkpoint[disk].shape
    untouched = set(checkpoint) - set(state)
    assert all(torch.equal(result[disk].load(), checkpoint[disk].load()) for disk in untouched)


def test_receipt_says_fitted(tmp_path: Path) -> None:
    checkpoint, examination = opened("llama", tmp_path)
    value = torch.zeros(48, 100)
    result, receipt = substitute_weights(
        checkpoint, examination.names, {"model.layers.0.mlp.down_proj.weight": value},
        parameters={"substitute": "refit"}, notes=["a note"],
    )  # fmt: skip
    document = receipt.to_dict()
    assert document["contract"] == "fitted"
    assert document["tensors"] == {"kept": len(result) - 1, "changed": 1, "added": 0, "dropped": 0}
    assert document["parameters"] == {"substitute": "refit"}
    assert document["notes"] == ["a note"]


def test_storage_dtype_is_kept(tmp_path: Path) -> None:
    checkpoint, examination = opened("llama", tmp_path, dtype="bfloat16")
    name = "model.layers.0.mlp.down_proj.weight"
    value = torch.randn(48, 100, generator=torch.Generator().manual_seed(0))
    result, _ = substitute_weights(checkpoint, examination.names, {name: value}, parameters={})
    assert torch.equal(result[name].load(), value.bfloat16())


def test_shared_tensor_is_refused(tmp_path: Path) -> None:
    checkpoint, examination = opened("qwen2", tmp_path)  # tied embeddings
    with pytest.raises(UnsupportedModelError, match="shares its tensor"):
        substitute_weights(
            checkpoint, examination.names, {"lm_head.weight": torch.zeros(99, 48)}, parameters={}
        )
