"""Adapters: what they are put on, and what merging leaves."""

import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from normsurgery.anatomy.runtime import quiet
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.train.depth import text_stack
from normsurgery.train.lora import add_lora, linear_names, merge_lora, stacked_names
from normsurgery.train.trainable import trained_names
from tests.train.tools import subject


def prepared(directory):
    """A loaded model and the names of its linears and stacked experts."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(directory, experts_implementation="eager")
    found = subject(directory).examination
    blocks = text_stack(found).name
    linears = linear_names(model, blocks, found.twin.model)
    return model.eval(), linears, stacked_names(model, blocks)


LINEARS = {
    "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},  # Conv1D
    "llama": {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    },
    # the router is a Linear by its class, and returns a choice of experts
    "phimoe": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"},
    "falcon_old": {
        "self_attention.query_key_value", "self_attention.dense",
        "mlp.dense_h_to_4h", "mlp.dense_4h_to_h",
    },
}  # fmt: skip


@pytest.mark.parametrize("family", LINEARS)
def test_every_linear_of_the_blocks_is_found_and_nothing_else(tiny, family):
    _, linears, stacked = prepared(tiny(family))
    first = [name.split(".0.", 1)[1] for name in linears if ".0." in name]
    assert set(first) == LINEARS[family] and len(linears) == 3 * len(first)
    assert bool(stacked) == (family == "phimoe")


@pytest.mark.parametrize("family", LINEARS)
def test_merging_keeps_the_adapted_function_and_the_model_s_own_names(tiny, family):
    model, linears, stacked = prepared(tiny(family))
    names, ids = set(model.state_dict()), torch.arange(30).view(2, 15)
    with torch.no_grad():
        plain = model(ids).logits
        adapted = add_lora(model, linears, stacked, rank=4)
        assert torch.allclose(adapted(ids).logits, plain, atol=1e-5)  # B is zero at first
        assert all("lora_" in name for name in trained_names(adapted))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
        wanted = adapted(ids).logits
        merged = merge_lora(adapted)
        found = merged(ids).logits
    assert not torch.allclose(wanted, plain, atol=1e-2)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.std()
    assert set(merged.state_dict()) == names


def test_without_a_linear_there_is_nothing_to_adapt(tiny):
    model, _, _ = prepared(tiny("gpt2"))
    with pytest.raises(UnsupportedModelError, match="nothing to put adapters on"):
        add_lora(model, [], [], rank=4)


def test_without_peft_the_hint_is_the_line_that_installs_it(tiny, monkeypatch):
    model, linears, stacked = prepared(tiny("gpt2"))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError) as raised:
        add_lora(model, linears, stacked, rank=4)
    assert raised.value.hint == "pip install normsurgery[train]"
