"""Every exact fold on the files of tiny models in stock code, float64, with what it leaves."""

from __future__ import annotations

import json

import pytest
import torch

from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.proof import prove
from normsurgery.anatomy.push import trace_of
from normsurgery.api.folding.planning import asked_folds, plan_folds
from normsurgery.checkpoint import open_checkpoint
from normsurgery.choices import FOLD_ORDER
from normsurgery.errors import UnsupportedModelError, UsageError, VerificationError
from normsurgery.surgery.folds import FoldOptions, FoldPlan
from tests.surgery.fold_models import built, composed, fold_files, planned, state

CASES = [  # family, fold, sites that it changes, sites that it leaves
    ("llama", "norm", 5, 0),
    ("gemma", "norm", 4, 1),
    ("mixtral", "norm", 5, 0),
    ("gpt2", "norm", 6, 1),
    ("vit", "norm", 5, 0),
    ("beit", "layerscale", 4, 0),
    ("dinov2", "layerscale", 4, 0),
    ("convnext", "layerscale", 2, 0),
    ("wav2vec2", "weight-norm", 1, 0),
    ("encodec", "weight-norm", 20, 0),
    ("gpt2", "value-bias", 3, 0),
    ("eight_heads", "value-bias", 2, 0),
    ("eight_shared", "value-bias", 2, 0),
    ("bert", "value-bias", 3, 0),
    ("gpt_bigcode", "value-bias", 2, 0),
    ("gpt2", "key-bias", 3, 0),
    ("bloom", "key-bias", 3, 0),
    ("vit", "key-bias", 2, 0),
    ("gemma2", "query-scale", 1, 0),
    ("gemma3", "query-scale", 1, 0),
    ("granite", "query-scale", 1, 0),
    ("granite", "mup", 3, 0),
    ("granite_tied", "mup", 3, 0),
    ("cohere", "mup", 1, 0),
    ("deepseek", "mup", 1, 0),  # the router's factor into its experts
]


@pytest.mark.parametrize(("family", "what", "count", "left"), CASES)
def test_the_files_compute_the_same_in_stock_code(tmp_path, family, what, count, left):
    source = built(family, tmp_path / "source")
    composition, proof, error = fold_files(source, tmp_path / "out", what)
    (plan,) = composition.plans
    assert (plan.name, plan.count, len(plan.left)) == (what, count, left)
    assert error <= 1e-9
    assert proof.errors["stock"] <= 1e-9 < 1e-6 <= proof.controls["stock"]


def parameters(tmp_path, family, what):
    source = built(family, tmp_path / "source")
    composition, _, _ = fold_files(source, tmp_path / "out", what)
    return state(tmp_path / "out", composition.examination)


def test_norms_hold_their_identity(tmp_path):
    found = parameters(tmp_path, "gemma", "norm")
    assert not found["model.layers.0.input_layernorm.weight"].any()  # it stores γ − 1
    assert found["model.norm.weight"].any()  # embedding and head are one table
    found = parameters(tmp_path / "again", "vit", "norm")
    assert (found["vit.layers.0.layernorm_before.weight"] == 1).all()
    assert not found["vit.layers.0.layernorm_before.bias"].any()


def test_gains_go_where_the_class_can_do_without(tmp_path):
    found = parameters(tmp_path, "beit", "layerscale")
    assert not any("lambda" in name for name in found)
    assert json.loads((tmp_path / "out/config.json").read_text())["layer_scale_init_value"] == 0.0
    found = parameters(tmp_path / "again", "dinov2", "layerscale")
    gains = [value for name, value in found.items() if "lambda1" in name]
    assert len(gains) == 4 and all((gain == 1).all() for gain in gains)


def test_a_baked_direction_is_the_weight_itself(tmp_path):
    found = parameters(tmp_path, "wav2vec2", "weight-norm")
    (gain, direction) = (
        next(value for name, value in found.items() if name.endswith(f"weight.original{i}"))
        for i in (0, 1)
    )
    torch.testing.assert_close(
        direction.square().sum((0, 1), keepdim=True).sqrt(), gain, rtol=1e-14, atol=0
    )


def test_only_the_values_lose_their_bias(tmp_path):
    bias = parameters(tmp_path, "gpt2", "value-bias")["transformer.h.0.attn.c_attn.bias"]
    queries, keys, values = bias.chunk(3)
    assert queries.all() and keys.all() and not values.any()
    bias = parameters(tmp_path / "again", "bloom", "key-bias")[
        "transformer.h.0.self_attention.query_key_value.bias"
    ].view(4, 3, 12)  # head by head
    assert bias[:, 0].all() and not bias[:, 1].any() and bias[:, 2].all()


@pytest.mark.parametrize(
    ("family", "what", "key", "value"),
    [
        ("gemma2", "query-scale", "query_pre_attn_scalar", 1),
        ("granite", "mup", "logits_scaling", 1.0),
        ("cohere", "mup", "logit_scale", 1.0),
    ],
)
def test_a_number_of_the_configuration_is_its_identity(tmp_path, family, what, key, value):
    fold_files(built(family, tmp_path / "source"), tmp_path / "out", what)
    assert json.loads((tmp_path / "out/config.json").read_text())[key] == value


def test_many_numbers_between_the_same_weights(tmp_path):
    source = built("falcon_h1", tmp_path / "source")
    composition, _, error = fold_files(source, tmp_path / "out", "mup")
    assert composition.plans[0].count == 9 and error <= 1e-9
    (name, reason), *more = composition.plans[0].left.items()
    assert not more and name == "ssm_multipliers.4" and "one number" in reason


@pytest.mark.parametrize(
    ("family", "what", "reason"),
    [
        ("olmo", "norm", "it has none"),
        ("resnet", "norm", "no LayerNorm and no RMSNorm"),
        ("vit", "layerscale", "no per-channel gain"),
        ("bit", "weight-norm", "8 more: its weight is standardized"),
        ("llama", "weight-norm", "no weight is normalized"),
        ("qwen2", "value-bias", "o_proj has no bias to take it"),
        ("llama", "value-bias", "no bias comes out of attention"),
        ("gpt_oss", "value-bias", "no bias comes out of attention"),  # sinks
        ("gpt_neox", "key-bias", "no key has a bias that its scores forget"),  # rotated
        ("phi_qk", "key-bias", "no key has a bias that its scores forget"),  # normalized
        ("gemma2", "mup", "no key of its configuration"),
        ("llama", "query-scale", "no key of its configuration"),
        ("gpt2", "image-norm", "takes no pictures"),
    ],
)
def test_a_fold_that_does_not_apply_says_why(tmp_path, family, what, reason):
    found = planned(built(family, tmp_path / "source"), what)
    assert isinstance(found, str) and reason in found


def test_sites_that_stay_are_named(tmp_path):
    post = planned(built("bert", tmp_path / "bert"), "norm")
    assert isinstance(post, FoldPlan)
    assert "add" in post.left["bert.encoder.layer.0.output.LayerNorm"]
    sandwich = planned(built("gemma3", tmp_path / "gemma3"), "norm")
    assert isinstance(sandwich, FoldPlan)
    assert "add" in sandwich.left["model.layers.0.post_attention_layernorm"]
    assert "mul" in sandwich.left["model.layers.0.self_attn.q_norm"]
    assert "embed_tokens" in sandwich.left["model.norm"]


def test_a_norm_that_runs_twice_stays(tmp_path, monkeypatch):
    from normsurgery.surgery import fold_norm

    source = built("llama", tmp_path / "source")
    examination = examine(open_checkpoint(source))

    class Twice:
        def norm_nodes(self):
            nodes = list(fold_norm_trace.norm_nodes())
            return [*nodes, nodes[0]]

    fold_norm_trace = trace_of(examination.twin)
    monkeypatch.setattr(fold_norm, "trace_of", lambda twin: Twice())
    found = fold_norm.plan_norm(open_checkpoint(source), examination, FoldOptions())
    assert isinstance(found, FoldPlan)
    assert list(found.left) == ["model.layers.0.input_layernorm"]
    assert "more than once" in found.left["model.layers.0.input_layernorm"]


def test_several_folds_are_done_in_their_order(tmp_path):
    source = built("granite_tied", tmp_path / "source")
    composition, proof, error = fold_files(
        source, tmp_path / "out", *asked_folds("norm, query-scale,mup")
    )
    assert [plan.name for plan in composition.plans] == ["mup", "query-scale", "norm"]
    assert error <= 1e-9 and proof.errors["stock"] <= 1e-9


def test_every_fold_has_its_own_wrong_result(tmp_path):
    _, composition = composed(built("gpt2", tmp_path / "source"), "value-bias", "key-bias", "norm")
    examination = composition.examination
    for plan in composition.plans:
        assert plan.wrong
        for step in plan.wrong.values():
            with pytest.raises(VerificationError, match="differs from the source"):
                prove_alone(examination, step)


def prove_alone(examination, step):
    forms = {"stock": lambda _: examination.model_class}
    prove(examination, lambda twin: step(twin)[0], forms)


def test_what_is_asked_for_is_checked():
    assert asked_folds(["rotate", "norm"]) == ("norm", "rotate")
    assert asked_folds(",".join(reversed(FOLD_ORDER))) == FOLD_ORDER
    for what in ("", "gamma", ["norm", "beta"], "norm,recalibrate"):
        with pytest.raises(UsageError):
            asked_folds(what)


def test_where_none_applies_every_reason_is_given(tmp_path):
    checkpoint = open_checkpoint(built("llama", tmp_path / "source"))
    options = FoldOptions(what=("layerscale", "mup"))
    with pytest.raises(UnsupportedModelError, match=r"layerscale: .*; mup: "):
        plan_folds(checkpoint, examine(checkpoint), options)
