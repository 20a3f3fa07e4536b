"""The pieces of the native targets by themselves: rotary tables, cuts, the absorber, engines."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from normsurgery.checkpoint import LazyTensor
from normsurgery.native import absorber, rotary
from normsurgery.native.cuts import CUTS
from normsurgery.native.engines import expected_engines
from normsurgery.native.targets import ERNIE, LLAMA


def _rotated(heads, frequencies, position, *, interleaved, turned):
    """Rotary embedding by its definition: pairs of channels turned by position × frequency."""
    out = heads.clone()
    for i, frequency in enumerate(frequencies):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + turned // 2)
        angle = position * frequency
        a, b = heads[..., first], heads[..., second]
        out[..., first] = a * torch.cos(angle) - b * torch.sin(angle)
        out[..., second] = b * torch.cos(angle) + a * torch.sin(angle)
    return out


@pytest.mark.parametrize("target", [LLAMA, ERNIE], ids=lambda target: target.rotary)
@pytest.mark.parametrize("turned", [4, 6, 12])
def test_reordered_channels_turn_as_the_source_s_do(target, turned):
    width, generator = 12, torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 5 * width, 7, generator=generator, dtype=torch.float64)
    slow = torch.logspace(0, -2, turned // 2, dtype=torch.float64)
    still = torch.full(((width - turned) // 2,), 1e-30, dtype=torch.float64)
    order = rotary.channel_order(target, turned, width) or list(range(width))

    def scores(query, key, frequencies, **layout):
        heads = [m.reshape(5, width, 7).transpose(1, 2) for m in (query, key)]
        q = _rotated(heads[0], frequencies, torch.tensor(9.0, dtype=torch.float64), **layout)
        k = _rotated(heads[1], frequencies, torch.tensor(4.0, dtype=torch.float64), **layout)
        return q @ k.transpose(1, 2)

    wanted = scores(query, key, slow, interleaved=False, turned=turned)
    moved_query, moved_key = (rotary.reordered(m, order=order) for m in (query, key))
    whole = torch.cat([slow, still])
    interleaved = target.rotary == "interleaved"
    found = scores(moved_query, moved_key, whole, interleaved=interleaved, turned=width)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_whole_heads_by_halves_need_no_reordering():
    assert rotary.channel_order(LLAMA, 12, 12) is None
    assert sorted(rotary.channel_order(ERNIE, 12, 12) or []) == list(range(12))


def test_a_fused_matrix_is_cut_head_by_head():
    config = SimpleNamespace(num_attention_heads=2)
    fused = LazyTensor.of(torch.arange(2 * 3 * 4.0).reshape(24, 1))
    cuts = CUTS["qkv_by_head"](config, None)
    rows = {part: cut(fused).load().flatten().tolist() for part, cut in cuts.items()}
    assert rows["q"] == [0, 1, 2, 3, 12, 13, 14, 15]
    assert rows["v"] == [8, 9, 10, 11, 20, 21, 22, 23]


def test_stacked_queries_keys_and_values_have_their_own_counts():
    config = SimpleNamespace(num_attention_heads=4, num_key_value_heads=1, hidden_size=8)
    stacked = LazyTensor.of(torch.arange(12.0).reshape(12, 1))
    cuts = CUTS["qkv_stacked"](config, None)
    rows = {part: cut(stacked).load().flatten().tolist() for part, cut in cuts.items()}
    assert rows == {"q": list(range(8)), "k": [8, 9], "v": [10, 11]}


def test_experts_are_cut_apart_and_turned():
    config = SimpleNamespace(num_local_experts=2)
    fused = LazyTensor.of(torch.arange(12.0).reshape(6, 2))
    upright = CUTS["experts"](config, None)["1"](fused).load()
    turned = CUTS["experts_transposed"](config, None)["1"](fused).load()
    assert torch.equal(upright, torch.arange(6.0, 12.0).reshape(3, 2))
    assert torch.equal(turned, upright.T)


def test_the_reflection_takes_the_mean_to_channel_0():
    v = absorber._normal(48)
    reflection = torch.eye(48, dtype=torch.float64) - torch.outer(v, v)
    ones = torch.ones(48, dtype=torch.float64) / 48**0.5
    assert torch.allclose(reflection @ ones, torch.eye(48, dtype=torch.float64)[0], atol=1e-15)
    assert torch.allclose(reflection @ reflection, torch.eye(48, dtype=torch.float64), atol=1e-15)


ACTIVATIONS = sorted(absorber._ODD_IS_LINEAR | {absorber._SQUARE})


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_the_block_s_mlp_copies_its_input_whatever_the_activation(act, gated):
    """A x̂ + B e₀ for any normalized row, up to the longest that there is."""
    from transformers.activations import ACT2FN

    width, inner = 24, 50
    block = absorber._Block(act, width, gated)
    shapes = {
        "up_proj.weight": (inner, width), "up_proj.bias": (inner,),
        "gate_proj.weight": (inner, width), "gate_proj.bias": (inner,),
        "down_proj.weight": (width, inner), "down_proj.bias": (width,),
    }  # fmt: skip
    made = {
        name: block.tensor(f"mlp.{name}", LazyTensor.of(torch.zeros(shape, dtype=torch.float64)))
        for name, shape in shapes.items()
    }
    held = {name: tensor.load() for name, tensor in made.items()}
    rows = torch.randn(99, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:, 0] = 0
    rows[0] = 0
    rows[0, 5] = 1.0
    rows = rows / rows.square().mean(1, keepdim=True).sqrt()

    def linear(x, name):
        return x @ held[f"{name}.weight"].T + held[f"{name}.bias"]

    act_fn = ACT2FN[act]
    if gated:
        hidden = act_fn(linear(rows, "gate_proj")) * linear(rows, "up_proj")
    else:
        hidden = act_fn(linear(rows, "up_proj"))
    out = linear(hidden, "down_proj")
    assert torch.equal(out[:, 0], torch.full((99,), absorber._CONSTANT, dtype=torch.float64))
    copied = out[:, 1:] / absorber._COPY
    assert (copied - rows[:, 1:]).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("model_type", "act", "bias", "rope", "engines"),
    [
        ("llama", "silu", False, "default", ["vllm", "llama.cpp"]),
        ("llama", "silu", True, "default", ["vllm", "llama.cpp"]),
        ("llama", "gelu", False, "default", []),
        ("llama", "silu", False, "longrope", []),
        ("arcee", "relu2", False, "default", ["vllm", "llama.cpp"]),
        ("arcee", "relu2", True, "default", []),
        ("arcee", "gelu", False, "default", []),
        ("ernie4_5_moe", "silu", False, "default", []),
    ],
)
def test_engines_are_named_from_facts_in_the_configuration(model_type, act, bias, rope, engines):
    config = SimpleNamespace(
        model_type=model_type, hidden_act=act, attention_bias=bias, mlp_bias=False,
        rope_parameters={"rope_type": rope},
    )  # fmt: skip
    assert expected_engines(config) == ["transformers", *engines]
