"""Tensor names on disk are explained, whatever their dialect; nothing is dropped."""

from __future__ import annotations

import pytest
import torch
import transformers

from normsurgery.anatomy.names import map_names
from normsurgery.errors import CheckpointError
from tests.families import FAMILIES


def _model(family):
    class_name, config_name, values = FAMILIES[family]
    return getattr(transformers, class_name)(getattr(transformers, config_name)(**values))


@pytest.fixture(scope="module")
def gpt2():
    return _model("gpt2")


def _names(model):
    return [name for name in model.state_dict() if name != "lm_head.weight"]


def test_the_names_that_transformers_writes(gpt2):
    names = map_names(gpt2, _names(gpt2))
    assert all(name == part.parameter for name, part in names.parts.items())
    assert not names.carried


def test_old_checkpoints_without_the_base_prefix(gpt2):
    names = map_names(gpt2, [name.removeprefix("transformer.") for name in _names(gpt2)])
    assert names.parts["h.0.ln_1.weight"].parameter == "transformer.h.0.ln_1.weight"


def test_a_base_model_s_class_reads_a_prefixed_checkpoint(gpt2):
    base = transformers.GPT2Model(gpt2.config)
    names = map_names(base, _names(gpt2))
    assert names.parts["transformer.wte.weight"].parameter == "wte.weight"


def test_masks_that_old_checkpoints_carry_are_kept_and_explained(gpt2):
    extra = ["h.0.attn.bias", "h.0.attn.masked_bias"]
    short = [name.removeprefix("transformer.") for name in _names(gpt2)]
    names = map_names(gpt2, [*short, extra[0]])
    assert set(names.carried) == {extra[0]}


def test_gamma_and_beta_spellings():
    bert = _model("bert")
    old = [
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")
        for name in bert.state_dict()
    ]
    names = map_names(bert, old)
    gamma = next(name for name in old if name.endswith("LayerNorm.gamma"))
    assert names.parts[gamma].parameter == gamma.replace("gamma", "weight")


def test_a_renamed_head():
    neox = _model("gpt_neox")
    names = map_names(neox, [n.replace("lm_head.", "embed_out.") for n in neox.state_dict()])
    assert names.parts["embed_out.weight"].parameter == "lm_head.weight"


def test_a_tensor_that_concatenates_two_parameters():
    dinov2 = _model("dinov2_swiglu")
    fused = [
        name.replace("gate_proj", "weights_in").replace("down_proj", "weights_out")
        for name in dinov2.state_dict()
        if "up_proj" not in name
    ]
    names = map_names(dinov2, fused)
    assert names.joins["encoder.layer.0.mlp.weights_in.weight"] == (
        "encoder.layer.0.mlp.gate_proj.weight", "encoder.layer.0.mlp.up_proj.weight",
    )  # fmt: skip
    state = {name: torch.randn(value.shape) for name, value in dinov2.state_dict().items()}
    joined = names.value("encoder.layer.0.mlp.weights_in.weight", state)
    half = state["encoder.layer.0.mlp.gate_proj.weight"]
    assert torch.equal(joined[: len(half)], half)


def test_both_copies_of_a_tied_table_hold_the_same_parameter(gpt2):
    names = map_names(gpt2, [*_names(gpt2), "lm_head.weight"])
    held = {name for name, _ in names.on_disk("transformer.wte.weight")}
    assert held == {"transformer.wte.weight", "lm_head.weight"}


def test_a_tensor_that_nothing_explains_is_an_error(gpt2):
    with pytest.raises(CheckpointError, match=r"h\.0\.attn\.extra\.weight: no parameter") as caught:
        map_names(gpt2, [*_names(gpt2), "transformer.h.0.attn.extra.weight"])
    assert caught.value.hint


def test_a_missing_parameter_is_an_error(gpt2):
    without = [name for name in _names(gpt2) if name != "transformer.h.1.ln_2.bias"]
    with pytest.raises(CheckpointError, match=r"transformer\.h\.1\.ln_2\.bias .*not in the check"):
        map_names(gpt2, without)
