"""The proof fails where a native mapping is wrong, whichever of its tricks it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import normsurgery
from normsurgery.native import absorber, retarget
from tests.native.conftest import accepted
from tests.native.test_rows import proved


def fails(plan):
    """The proof notices a wrong result, or the target's class refuses it."""
    with pytest.raises(normsurgery.VerificationError) as caught:
        proved(plan)
    return caught.value.message


@pytest.mark.parametrize(
    ("family", "target"),
    [("stablelm", "LlamaForCausalLM"), ("olmo_tied", "LlamaForCausalLM")],
)
def test_the_stream_must_be_centred(built, monkeypatch, family, target):
    plan = accepted(built(family))[target]
    if plan.absorbs:
        real = absorber._reflected_columns
        monkeypatch.setattr(
            absorber, "_reflected_columns", lambda w: real(w) + (w == w).to(w.dtype)
        )
    else:
        plan = dataclasses.replace(plan, steps=plan.steps[1:])
    assert "native form: logits differs" in fails(plan)


@pytest.mark.parametrize("target", ["LlamaForCausalLM", "Ernie4_5_MoeForCausalLM"])
def test_query_and_key_channels_left_in_their_order(built, monkeypatch, target):
    plan = accepted(built("stablelm"))[target]
    monkeypatch.setattr(retarget, "channel_order", lambda *_: None)
    assert "native form: logits differs" in fails(plan)


def test_queries_permuted_and_keys_not(built, monkeypatch):
    plan = accepted(built("nemotron"))["ArceeForCausalLM"]
    monkeypatch.setattr(retarget, "_QUERY_KEY", r".*\.self_attn\.q_proj\.weight")
    assert "native form: logits differs" in fails(plan)


def test_an_offset_of_gamma_ignored(built, monkeypatch):
    """Nemotron stores γ − 1."""
    plan = accepted(built("nemotron"))["ArceeForCausalLM"]
    monkeypatch.setattr(retarget, "_plus", lambda weight, number: weight)
    assert "native form: logits differs" in fails(plan)


def test_the_absorber_left_out_is_a_head_with_a_bias_too_many(built):
    plan = accepted(built("starcoder2"))["ArceeForCausalLM"]
    left_out = dataclasses.replace(plan, steps=plan.steps[:-1])
    assert "loads the twin with unexpected keys: lm_head.bias" in fails(left_out)


def test_an_absorber_that_absorbs_nothing(built):
    plan = accepted(built("starcoder2"))["ArceeForCausalLM"]

    def without_bias(source):
        zero = source[absorber.HEAD_BIAS].map(torch.zeros_like)
        return plan.steps[-1](source.override({absorber.HEAD_BIAS: zero}))

    spoiled = dataclasses.replace(plan, steps=(*plan.steps[:-1], without_bias))
    assert "native form: logits differs" in fails(spoiled)


def test_an_absorber_with_too_weak_a_constant(built, monkeypatch):
    plan = accepted(built("gpt_neox"))["ArceeForCausalLM"]
    monkeypatch.setattr(absorber, "_CONSTANT", 2.0**45)
    assert f"allowed {absorber.BOUND:.0e}" in fails(plan)


def test_beta_left_out_of_the_readers(built, monkeypatch):
    plan = accepted(built("vit"))["InternVLVisionModel"]
    real = retarget._shifted

    def forgetful(bias, weight, beta, dim):
        return real(bias, weight, lambda: torch.zeros_like(beta()), dim)

    monkeypatch.setattr(retarget, "_shifted", forgetful)
    assert "last_hidden_state differs" in fails(plan)


def test_queries_and_keys_mixed_up_in_a_fused_matrix(built, monkeypatch):
    from normsurgery.native import cuts

    plan = accepted(built("gpt_neox"))["ArceeForCausalLM"]

    def stacked(config, source):
        return cuts.qkv_stacked(config, source)

    monkeypatch.setitem(cuts.CUTS, "qkv_by_head", stacked)
    assert "native form: logits differs" in fails(plan)
