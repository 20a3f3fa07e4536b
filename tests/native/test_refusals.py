"""Every condition of the native table, and the reason given where it is not met."""

from __future__ import annotations

import dataclasses
import json

import pytest

import normsurgery
from normsurgery.anatomy.examine import examine
from normsurgery.checkpoint import open_checkpoint
from normsurgery.native.plan import native_plans
from normsurgery.native.table import MAPPINGS
from tests.families import build_spec
from tests.native.conftest import accepted, refusals
from tests.native.families import FAMILIES, rope
from tests.native.test_rows import proved

REASONS = [
    ("olmo", {"clip_qkv": 0.5}, "Llama", "clip_qkv is 0.5, and its queries, keys or values may"),
    ("stablelm", {"use_parallel_residual": True}, "Llama", "its blocks are parallel"),
    ("stablelm", {"qk_layernorm": True}, "Llama", "it normalizes queries and keys"),
    ("gpt_neox", {"use_parallel_residual": True}, "Arcee", "its blocks are parallel"),
    ("gpt_neox", {"rope_parameters": rope(0.26)}, "Arcee", "3 of 12 channels of a head are rotary"),
    (
        "gpt_neox",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4,
                             "partial_rotary_factor": 0.5}},
        "Arcee", "partial rotary positions of type linear",
    ),
    ("persimmon", {"qk_layernorm": True}, "Arcee", "it normalizes queries and keys"),
    ("starcoder2", {"intermediate_size": 64}, "Arcee", "an MLP of 96, and intermediate_size is 64"),
    ("starcoder2", {"hidden_act": "tanh"}, "Arcee", "which tanh cannot make linear"),
    ("stablelm", {"intermediate_size": 40}, "Llama", "an MLP of 48, and intermediate_size is 40"),
    ("nemotron", {"head_dim": 16}, "Ernie4_5_Moe", "4 heads of 16 are not the width 48"),
    ("dinov2", {"use_swiglu_ffn": True}, "InternVLVision", "its MLP is gated"),
    ("esm", {"position_embedding_type": "absolute"}, "EuroBert", "position_embedding_type is abs"),
    ("internvl_vision", {"use_qk_norm": True}, "InternVLVision", "it normalizes queries and keys"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "config", "target", "reason"), REASONS)
def test_a_condition_that_is_not_met_is_the_reason(built, family, config, target, reason):
    assert reason in refusals(built(family, **config))[target]


def test_dbrx_whose_clip_may_act_is_refused_and_one_whose_cannot_is_proved(built):
    attention = {"kv_n_heads": 2, "rope_theta": 1e4}
    active = built("dbrx", attn_config={**attention, "clip_qkv": 1})
    assert "attn_config.clip_qkv is 1, and its" in refusals(active)["Mixtral"]


def test_a_clip_that_nothing_reaches_is_left_out(built):
    """The twin's own random weights may reach it: the fact is about the real ones."""
    found = accepted(built("olmo", clip_qkv=1e4))
    assert proved(found["LlamaForCausalLM"]) <= 1e-13


def test_dbrx_whose_experts_are_weighted_otherwise_is_refused(built):
    experts = {
        "ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 2,
        "moe_normalize_expert_weights": None,
    }  # fmt: skip
    assert "by their sum" in refusals(built("dbrx", ffn_config=experts))["Mixtral"]


@pytest.mark.parametrize(("family", "target"), [("stablelm", "Llama"), ("nemotron", "Arcee")])
def test_float16_has_no_range_for_an_absorber(built, family, target):
    assert "float16 overflows" in refusals(built(family, dtype="float16"))[target]
    assert "float16 overflows" in refusals(built(family), dtype="F16")[target]
    wider = refusals(built(family, dtype="float16"), dtype="BF16")
    assert target not in wider, "--dtype bfloat16 has the range"


def test_float16_takes_the_target_that_needs_no_absorber(built, tmp_path):
    source = built("starcoder2", dtype="float16")
    document = normsurgery.convert(source, tmp_path / "out", target="native").to_dict()
    assert document["target"]["architecture"] == "Ernie4_5_MoeForCausalLM"
    assert document["verification"]["verdict"] == "pass"


def test_relu2_in_bfloat16_has_too_little_precision_for_an_absorber_but_in_toys(built):
    wide = built("jais2", dtype="bfloat16", hidden_size=96, intermediate_size=200)
    assert "leaves bfloat16 too little precision at a width of 96" in refusals(wide)["Arcee"]
    assert "Arcee" not in refusals(wide, dtype="F32")


def test_several_epsilons_have_no_place(built, tmp_path):
    """A configuration has one; the code of the stock class makes them all alike."""
    checkpoint = open_checkpoint(built("olmo"))
    examination = examine(checkpoint)
    sites = dict(examination.anatomy.sites)
    site = sites["model.norm"]
    sites["model.norm"] = dataclasses.replace(site, norm=dataclasses.replace(site.norm, eps=1e-6))
    anatomy = dataclasses.replace(examination.anatomy, sites=sites)
    (found,) = native_plans(checkpoint, dataclasses.replace(examination, anatomy=anatomy))
    assert "several ε (1e-06, 1e-05)" in getattr(found, "reason", "")


def test_a_head_that_the_target_lacks_is_refused(tmp_path):
    _, config, values = FAMILIES["vit"]
    build_spec(("ViTForImageClassification", config, values), tmp_path / "in")
    reason = "there is no InternVLVisionForImageClassification to become"
    assert refusals(tmp_path / "in") == {"InternVLVision": reason}


def test_a_final_bias_that_the_output_shows_has_no_place(tmp_path):
    _, config, values = FAMILIES["stablelm"]
    build_spec(("StableLmModel", config, values), tmp_path / "in")
    assert "norm has a β that cannot leave it" in refusals(tmp_path / "in")["Llama"]


def test_a_sequence_classifier_has_no_bias_for_it(tmp_path):
    _, config, values = FAMILIES["stablelm"]
    spec = "StableLmForSequenceClassification", config, {**values, "pad_token_id": 3}
    build_spec(spec, tmp_path / "in")
    assert "the target's head has no bias" in refusals(tmp_path / "in")["Llama"]


def test_no_mapping_and_no_fit_are_said(tiny, built, tmp_path):
    with pytest.raises(normsurgery.UnsupportedModelError, match="not in the table") as caught:
        normsurgery.convert(tiny("gpt2"), tmp_path / "out", target="native")
    assert caught.value.exit_code == 4
    parallel = built("gpt_neox", use_parallel_residual=True)
    with pytest.raises(normsurgery.UnsupportedModelError, match=r"Arcee: .*; Ernie4_5_Moe: "):
        normsurgery.convert(parallel, tmp_path / "out", target="native")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"fold_affine": True}, {"untie": True}, {"to": "crmsnorm"}])
def test_options_that_a_native_target_has_no_room_for(built, tmp_path, options):
    with pytest.raises(normsurgery.UsageError):
        normsurgery.convert(built("olmo"), tmp_path / "out", target="native", **options)


def test_a_source_tensor_without_a_place_is_an_error(built, monkeypatch):
    cut = [dataclasses.replace(m, moves=m.moves[1:]) for m in MAPPINGS if m.source == "Olmo"]
    monkeypatch.setattr("normsurgery.native.plan.MAPPINGS", tuple(cut))
    assert "no place for model.embed_tokens.weight" in refusals(built("olmo"))["Llama"]


def test_a_place_that_nothing_fills_is_an_error(built, monkeypatch):
    (olmo,) = (mapping for mapping in MAPPINGS if mapping.source == "Olmo")
    bare = dataclasses.replace(olmo, target=dataclasses.replace(olmo.target, fills={}))
    monkeypatch.setattr("normsurgery.native.plan.MAPPINGS", (bare,))
    reason = "nothing becomes model.layers.0.input_layernorm.weight"
    assert refusals(built("olmo"))["Llama"] == reason


def test_a_context_beyond_the_sliding_window_is_given_up_and_said(built, tmp_path):
    source = built("starcoder2", sliding_window=300)
    document = normsurgery.convert(source, tmp_path / "out", target="native").to_dict()
    assert "the context shrinks from 640 to 300" in document["target"]["why"]
    assert document["verification"]["verdict"] == "pass", "compared on rows of 300"
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["max_position_embeddings"] == 300


def test_remote_code_has_no_native_target(built, tmp_path):
    checkpoint = open_checkpoint(built("olmo"))
    examination = examine(checkpoint)
    foreign = type("OlmoForCausalLM", (), {"__module__": "transformers_modules.x"})
    assert native_plans(checkpoint, dataclasses.replace(examination, model_class=foreign)) == []
