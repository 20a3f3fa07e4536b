"""Every row of the native table, from a tiny checkpoint with all parameters random."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import normsurgery
from normsurgery.anatomy.proof import EXACT_BOUND, prove
from normsurgery.checkpoint import open_checkpoint
from normsurgery.native.absorber import BOUND
from normsurgery.native.plan import NativePlan
from normsurgery.native.table import MAPPINGS
from tests.families import build_spec
from tests.native.conftest import accepted, edited, plans, refusals, with_config
from tests.native.families import FAMILIES

ERNIE = "Ernie4_5_MoeForCausalLM"
# family → (target class, whether it needs the absorber, another target)
ROWS: dict[str, tuple[str, bool, str | None]] = {
    "olmo": ("LlamaForCausalLM", False, None),
    "olmo_tied": ("LlamaForCausalLM", False, None),
    "stablelm": ("LlamaForCausalLM", True, ERNIE),
    "starcoder2": ("ArceeForCausalLM", True, ERNIE),
    "nemotron": ("ArceeForCausalLM", True, ERNIE),
    "jais2": ("ArceeForCausalLM", True, ERNIE),
    "gpt_neox": ("ArceeForCausalLM", True, ERNIE),
    "gpt_neox_japanese": ("ArceeForCausalLM", True, ERNIE),
    "persimmon": ("ArceeForCausalLM", True, ERNIE),
    "dbrx": ("MixtralForCausalLM", False, None),
    "esm": ("EuroBertForTokenClassification", False, None),
    "vit": ("InternVLVisionModel", False, None),
    "vit_msn": ("InternVLVisionModel", False, None),
    "dinov2": ("InternVLVisionModel", False, None),
    "internvl_vision": ("InternVLVisionModel", False, None),
}


def proved(plan: NativePlan) -> float:
    """The largest error of a plan's proof, whose negative control must be far above it."""

    def operate(checkpoint):
        for step in plan.steps:
            checkpoint, _ = step(checkpoint)
        return checkpoint

    proof = prove(
        plan.examination, operate, {"native": lambda _: plan.model_class},
        bound=plan.bound, without=plan.lost,
    )  # fmt: skip
    assert proof.controls["native"] > 1e-3
    return proof.errors["native"]


def test_every_row_of_the_table_is_tested():
    assert set(ROWS) == set(FAMILIES)
    tested = {spec[0] for spec in FAMILIES.values()} | {"GPT2Model"}
    for mapping in MAPPINGS:
        assert tested & {f"{mapping.source}{head}" for head in mapping.heads}, str(mapping)


@pytest.mark.parametrize("family", ROWS)
def test_every_target_is_proved_in_float64(built, family):
    target, absorbs, other = ROWS[family]
    found = plans(built(family))
    assert [type(one) for one in found] == [NativePlan] * (1 + (other is not None))
    by_name = {one.architecture: one for one in found if isinstance(one, NativePlan)}
    assert next(iter(by_name)) == target
    assert by_name[target].absorbs is absorbs
    assert by_name[target].bound == (BOUND if absorbs else EXACT_BOUND)
    for plan in by_name.values():
        assert proved(plan) <= (BOUND if plan.absorbs else 1e-13)
    if other is not None:
        assert not by_name[other].absorbs


def test_gpt2_s_base_model_is_an_imagegpt_if_the_last_bias_is_zero(tmp_path):
    values = {"n_layer": 3, "n_embd": 48, "n_head": 4, "vocab_size": 99, "n_positions": 64}
    spec = "GPT2Model", "GPT2Config", values | {"bos_token_id": 1, "eos_token_id": 2}
    build_spec(spec, tmp_path / "random")
    assert "its output is an output" in refusals(tmp_path / "random")["ImageGPT"]
    zero = edited(tmp_path / "random", tmp_path / "zero", lambda t: t["ln_f.bias"].zero_())
    (plan,) = accepted(zero).values()
    assert proved(plan) <= 1e-13
    document = normsurgery.convert(zero, tmp_path / "out", target="native").to_dict()
    assert document["target"]["architecture"] == "ImageGPTModel"
    assert document["verification"]["native"]["verdict"] == "pass"


@pytest.mark.parametrize(
    ("family", "dtype"),
    [(family, "float32") for family in ROWS] + [(family, "bfloat16") for family in [*ROWS][::3]],
)
def test_the_saved_files_are_verified_against_the_source(built, tmp_path, family, dtype):
    out = tmp_path / "out"
    source = built(family, dtype=dtype)
    document = normsurgery.convert(source, out, target="native").to_dict()
    target = document["target"]
    assert (target["form"], target["architecture"]) == ("native", ROWS[family][0])
    found = document["verification"]["native"]
    assert found["verdict"] == "pass"
    if found["generation_identical"] is not None and dtype == "float32":
        assert found["generation_identical"], "greedy, from the cache, left-padded"
    written = json.loads((out / "config.json").read_text())
    assert written["architectures"] == [target["architecture"]]
    assert "auto_map" not in written
    assert not list(out.glob("*.py"))
    auto = getattr(transformers, target["auto_class"])
    assert type(auto.from_pretrained(out)).__name__ == target["architecture"]


def test_text_is_compared_on_rows_of_512_tokens(built, tmp_path):
    module = importlib.import_module("normsurgery.verify.reference")
    lengths = []
    real = module.forward

    def noting(model, batch, *rest):
        lengths.append(batch.inputs["input_ids"].shape[1])
        padded = (~batch.mask[:, 0]).any()
        assert padded, "rows of different length, padded on the left"
        return real(model, batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "forward", noting)
        normsurgery.convert(built("olmo"), tmp_path / "out", target="native")
    assert max(lengths) == 512


def test_a_tied_head_stays_tied_where_no_gain_stands_before_it(built, tmp_path):
    normsurgery.convert(built("olmo_tied"), tmp_path / "out", target="native", verify=False)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" not in tensors
    table = tensors["model.embed_tokens.weight"]
    assert table.mean(1).abs().max() < 1e-7, "the shared table is centred"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


@pytest.mark.parametrize("family", ["stablelm", "nemotron", "gpt_neox"])
def test_partial_rotary_frequencies_are_the_source_s_to_the_bit(built, tmp_path, family):
    source = built(family)
    normsurgery.convert(source, tmp_path / "out", target="native", verify=False)
    before = transformers.AutoModel.from_pretrained(source).rotary_emb.inv_freq
    after = transformers.AutoModel.from_pretrained(tmp_path / "out").rotary_emb.inv_freq
    assert torch.equal(after[: len(before)], before)
    assert (after[len(before) :] <= 1e-29).all() and len(after) == 6


def test_a_final_bias_of_zero_needs_no_absorber_and_is_checked(built, tmp_path):
    zero = edited(built("nemotron"), tmp_path / "zero", lambda t: t["model.norm.bias"].zero_())
    plan = accepted(zero)["ArceeForCausalLM"]
    assert not plan.absorbs and plan.bound == EXACT_BOUND
    assert proved(plan) <= 1e-13
    checkpoint = open_checkpoint(built("nemotron"))
    with pytest.raises(normsurgery.UnsupportedModelError, match=r"model\.norm\.bias is not zero"):
        for step in plan.steps:
            checkpoint, _ = step(checkpoint)
    document = normsurgery.convert(zero, tmp_path / "out", target="native").to_dict()
    assert document["verification"]["verdict"] == "pass"


def test_what_has_no_place_is_said(built, tmp_path):
    document = normsurgery.convert(built("vit"), tmp_path / "out", target="native").to_dict()
    notes = " ".join(note for receipt in document["receipts"] for note in receipt["notes"])
    assert "the pooler" in notes
    assert "qkv_bias" in notes, "a configuration key that the target lacks"
    assert any("pooler_output" in note for note in document["notes"])
    assert document["receipts"][-1]["norms"]["after"] == {"RMSNorm": 6, "LayerNorm": 1}


def test_unknown_configuration_keys_and_token_ids_are_kept(built, tmp_path):
    source = with_config(built("olmo"), tmp_path / "in", my_note="kept", eos_token_id=7)
    normsurgery.convert(source, tmp_path / "out", target="native", verify=False)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["my_note"] == "kept"
    assert (written["bos_token_id"], written["eos_token_id"]) == (1, 7)
    assert written["dtype"] == "float32"
    assert "clip_qkv" not in written
    assert written["rms_norm_eps"] == 1e-5, "OLMo's code has it, its configuration does not"


def test_a_mask_token_is_centred(built, tmp_path):
    normsurgery.convert(built("dinov2"), tmp_path / "out", target="native", verify=False)
    token = load_file(tmp_path / "out" / "model.safetensors")["embeddings.mask_token"]
    assert token.shape == (1, 1, 48)
    assert token.mean().abs() < 1e-7


@pytest.mark.parametrize("family", ["olmo", "stablelm"])
def test_base_models_and_classifiers_convert_too(tmp_path, family):
    name, config, values = FAMILIES[family]
    spec = name.replace("ForCausalLM", "ForTokenClassification"), config, values
    if family == "olmo":
        spec = "OlmoModel", config, values
    build_spec(spec, tmp_path / "in")
    document = normsurgery.convert(tmp_path / "in", tmp_path / "out", target="native").to_dict()
    assert document["verification"]["verdict"] == "pass"
    wanted = "LlamaModel" if family == "olmo" else "LlamaForTokenClassification"
    assert document["target"]["architecture"] == wanted


@pytest.mark.parametrize(
    ("family", "older"),
    [
        ("stablelm", {"rope_theta": 5e3, "partial_rotary_factor": 0.5}),
        ("gpt_neox", {"rotary_emb_base": 5000, "rotary_pct": 0.5}),
        ("olmo", {"rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    ],
)
def test_configurations_as_older_versions_wrote_them(built, tmp_path, family, older):
    """Keys that the source's class still reads must not reach the target's class as they are."""
    source = with_config(built(family), tmp_path / "in", **older, torch_dtype="float32")
    file = source / "config.json"
    values = json.loads(file.read_text())
    del values["rope_parameters"], values["dtype"]
    file.write_text(json.dumps(values))
    document = normsurgery.convert(source, tmp_path / "out", target="native").to_dict()
    assert document["verification"]["verdict"] == "pass"
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not set(older) & set(written) and "torch_dtype" not in written
    assert written["dtype"] == "float32"


def test_a_tied_head_that_is_on_disk_twice(built, tmp_path):
    def twice(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    source = edited(built("olmo_tied"), tmp_path / "in", twice)
    document = normsurgery.convert(source, tmp_path / "out", target="native").to_dict()
    assert document["verification"]["verdict"] == "pass"
