"""Output channels that reach attention scores."""

from __future__ import annotations

import pytest
import torch

from normsurgery.anatomy.attention_channels import attention_channels
from tests.train.norms.models import fresh, inputs

W = 48  # the models' width: 4 heads of 12
ALL, NONE = [True], [False]
BLOCK = {
    "gpt2": "transformer.h.0",
    "gpt_neox": "gpt_neox.layers.0",
    "llama_grouped": "model.layers.0",
    "phi3": "model.layers.0",
    "bigcode": "transformer.h.0",
    "opt": "model.decoder.layers.0",
    "vit": "vit.layers.0",
    "gptj": "transformer.h.0",
    "falcon_new": "transformer.h.0",
    "codegen": "transformer.h.0",
    "qwen3": "model.layers.0",
}
# family → reader in a block → its channels, from the class's own splitting of its output
EXPECTED: dict[str, dict[str, list[bool]]] = {
    "gpt2": {"attn.c_attn": ALL * 2 * W + NONE * W, "mlp.c_fc": NONE * 4 * W},
    "gpt_neox": {
        "attention.query_key_value": (ALL * 24 + NONE * 12) * 4,  # q, k, v of each head in turn
        "mlp.dense_h_to_4h": NONE * 100,
    },
    "llama_grouped": {
        "self_attn.q_proj": ALL * W,
        "self_attn.k_proj": ALL * 24,
        "self_attn.v_proj": NONE * 24,
        "mlp.gate_proj": NONE * 100,
        "mlp.up_proj": NONE * 100,
    },
    "phi3": {"self_attn.qkv_proj": ALL * 72 + NONE * 24, "mlp.gate_up_proj": NONE * 200},
    "bigcode": {"attn.c_attn": ALL * 60 + NONE * 12, "mlp.c_fc": NONE * 4 * W},
    "opt": {
        "self_attn.q_proj": ALL * W, "self_attn.k_proj": ALL * W, "self_attn.v_proj": NONE * W,
        "fc1": NONE * 100,
    },
    "vit": {
        "attention.q_proj": ALL * W, "attention.k_proj": ALL * W, "attention.v_proj": NONE * W,
        "mlp.fc1": NONE * 100,
    },
    "gptj": {
        "attn.q_proj": ALL * W, "attn.k_proj": ALL * W, "attn.v_proj": NONE * W,
        "mlp.fc_in": NONE * 4 * W,
    },
    # two groups: two heads' q, then k, then v
    "falcon_new": {"self_attention.query_key_value": (ALL * 36 + NONE * 12) * 2},
    # four pieces, each [q | v | k]
    "codegen": {"attn.qkv_proj": (ALL * 12 + NONE * 12 + ALL * 12) * 4},
    # q and k pass a norm of their own first
    "qwen3": {
        "self_attn.q_proj": ALL * W, "self_attn.k_proj": ALL * 24, "self_attn.v_proj": NONE * 24,
    },
}  # fmt: skip


EAGER_ONLY = ("codegen", "gptj")
RUNS = [(family, "eager") for family in EXPECTED]
RUNS += [(family, "sdpa") for family in EXPECTED if family not in EAGER_ONLY]


@pytest.mark.parametrize(("family", "attention"), RUNS)
def test_channels_that_reach_the_scores(family: str, attention: str) -> None:
    model = fresh(family, torch.float32, attention)
    expected = {f"{BLOCK[family]}.{name}": wanted for name, wanted in EXPECTED[family].items()}
    found = attention_channels(model, list(expected), inputs(model))
    assert {name: felt.tolist() for name, felt in found.items()} == expected


def test_values_of_one_block_do_not_reach_the_scores_of_the_next() -> None:
    model = fresh("gpt2")
    name = "transformer.h.0.mlp.c_fc"  # asked alone: nothing else is cut off for it
    assert not attention_channels(model, [name], inputs(model))[name].any()


def test_a_router_is_no_attention() -> None:
    model = fresh("mixtral", torch.float32)
    names = ["model.layers.0.mlp.gate", "model.layers.0.self_attn.q_proj"]
    found = attention_channels(model, names, inputs(model))
    assert found["model.layers.0.self_attn.q_proj"].all()
    assert "model.layers.0.mlp.gate" not in found or not found["model.layers.0.mlp.gate"].any()


def test_the_model_is_left_as_it_was() -> None:
    model = fresh("gpt2")
    model.train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    attention_channels(model, ["transformer.h.0.attn.c_attn"], inputs(model))
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
