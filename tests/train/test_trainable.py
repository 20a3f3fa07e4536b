"""Which parameters train, by method."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from normsurgery.anatomy.runtime import quiet
from normsurgery.train.trainable import (
    choose_all,
    choose_head_and_last,
    trained_count,
    trained_names,
    without_dropout,
)
from tests.families import build_spec
from tests.train.tools import subject


def loaded(directory):
    with quiet():
        return AutoModelForCausalLM.from_pretrained(directory)


@pytest.fixture(scope="module")
def deep_llama(tmp_path_factory):
    """Five blocks and a head of its own."""
    directory = tmp_path_factory.mktemp("deep") / "llama"
    values = {
        "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 5,
        "intermediate_size": 40, "vocab_size": 99,
    }  # fmt: skip
    build_spec(("LlamaForCausalLM", "LlamaConfig", values), directory)
    return directory


def test_head_and_last_three_blocks_train_with_the_final_norm(deep_llama):
    model = loaded(deep_llama)
    notes = choose_head_and_last(model, subject(deep_llama).examination)
    parts = {".".join(name.split(".")[:3]) for name in trained_names(model)}
    wanted = {"model.layers.2", "model.layers.3", "model.layers.4", "model.norm.weight"}
    assert parts == {*wanted, "lm_head.weight"} and notes == ()


def test_a_tied_head_stays_and_says_so(tiny):
    model = loaded(tiny("gpt2"))
    notes = choose_head_and_last(model, subject(tiny("gpt2")).examination)
    names = trained_names(model)
    assert "lm_head.weight" not in names and "transformer.wte.weight" not in names
    assert {"transformer.ln_f.weight", "transformer.ln_f.bias"} <= set(names)
    assert "tied" in notes[0] or "shares its table" in notes[0]


def test_full_counts_a_tied_table_once(tiny):
    model = loaded(tiny("gpt2"))
    choose_all(model)
    assert trained_count(model) == sum(p.numel() for p in model.parameters())
    assert {"lm_head.weight", "transformer.wte.weight"} <= set(trained_names(model))


@pytest.mark.parametrize("family", ["gpt2", "falcon_old", "gpt_neox"])
def test_without_dropout_a_model_in_train_mode_is_the_model_in_eval_mode(tiny, family):
    model = loaded(tiny(family))
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        wanted = model.eval()(ids).logits
        if family == "gpt2":  # whose configuration has some
            assert not torch.equal(model.train()(ids).logits, wanted)
        without_dropout(model)
        assert torch.equal(model.train()(ids).logits, wanted)
