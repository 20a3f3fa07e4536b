"""What must pass, and the negative controls that must fail."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from normsurgery.errors import CheckpointError, UsageError
from tests.verify.helpers import cast, centre_gpt2, edited, find, verified


def test_a_copy_differs_by_nothing(tiny, tmp_path):
    source = tiny("gpt2")
    copy = shutil.copytree(source, tmp_path / "copy")
    found = verified(source, copy).to_dict()
    assert found["verdict"] == "pass"
    assert [found["logits"][key] for key in ("max", "p999", "mean")] == [0.0, 0.0, 0.0]
    assert found["kl"] == {"mean": 0.0, "p999": 0.0, "max": 0.0}
    assert found["top1"] == 1.0
    assert found["loss"]["reference"] == found["loss"]["candidate"]
    assert found["generation_identical"] is True
    assert found["position_0"]["logits"]["max"] == 0.0
    assert found["noise_floor"]["max"] > found["noise_floor"]["mean"] > 0
    assert found["noise_floor"]["against"] == "float64"
    assert found["load_report"] == {"missing": [], "unexpected": [], "mismatched": [], "errors": []}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_centred_writers_are_exact_in_every_storage_dtype(trained, tmp_path, dtype):
    source = edited(trained, tmp_path / "source", cast(getattr(torch, dtype)))
    candidate = edited(source, tmp_path / "centred", centre_gpt2)
    found = verified(source, candidate)
    document = found.to_dict()
    assert found.verdict == "pass", found.reasons
    assert document["dtype"] == dtype
    assert document["logits"]["max"] > 0
    assert document["logits"]["allowed"] == (1e-9 if dtype == "float64" else 3.0)
    if dtype == "float64":
        assert document["noise_floor"] is None
        assert document["logits"]["ratio"] < 1e-12


def corrupt(tensors):
    tensors[find(tensors, "h.1.mlp.c_fc.weight")][5] += 0.5


def scale_gamma(tensors):
    tensors[find(tensors, "h.1.ln_2.weight")].mul_(1.01)


def transpose(tensors):
    name = find(tensors, "h.1.attn.c_proj.weight")
    tensors[name] = tensors[name].T.contiguous()


def swap_blocks(tensors):
    for name in list(tensors):
        if ".h.0." in name:
            other = name.replace(".h.0.", ".h.1.")
            tensors[name], tensors[other] = tensors[other], tensors[name]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("edit", [corrupt, scale_gamma, transpose, swap_blocks])
def test_a_damaged_tensor_fails(trained, tmp_path, edit, dtype):
    source = edited(trained, tmp_path / "source", cast(getattr(torch, dtype)))
    found = verified(source, edited(source, tmp_path / "damaged", edit))
    if (edit, dtype) == (scale_gamma, "bfloat16"):
        assert found.outputs["logits"].ratio < 3  # 1 % of one γ is two roundings of bfloat16
        return
    assert found.verdict == "fail"
    assert any(reason.startswith("logits: error is") for reason in found.reasons)


def test_centring_a_tied_embedding_fails(tiny, tmp_path):
    def edit(tensors):
        name = find(tensors, "wte.weight")
        tensors[name] -= tensors[name].mean(-1, keepdim=True)

    source = tiny("gpt2")
    assert verified(source, edited(source, tmp_path / "out", edit)).verdict == "fail"


def drop_last_block(tensors):
    for name in [name for name in tensors if ".h.2." in name]:
        del tensors[name]


def test_a_dropped_layer_fails_as_exact_and_passes_as_lossy(tiny, tmp_path):
    source = tiny("gpt2")
    shorter = edited(source, tmp_path / "out", drop_last_block, n_layer=2)
    assert verified(source, shorter).verdict == "fail"
    lossy = verified(source, shorter, contract="lossy").to_dict()
    assert lossy["verdict"] == "pass"
    assert lossy["loss"]["reference"]["mean"] != lossy["loss"]["candidate"]["mean"]


@pytest.mark.parametrize("contract", ["exact", "lossy"])
def test_missing_keys_fail_under_every_contract(tiny, tmp_path, contract):
    source = tiny("gpt2")
    found = verified(source, edited(source, tmp_path / "out", drop_last_block), contract=contract)
    assert found.verdict == "fail"
    assert any("missing" in reason for reason in found.reasons)
    assert "transformer.h.2.ln_1.weight" in found.to_dict()["load_report"]["missing"]


def test_unexpected_keys_fail_unless_the_reference_has_them(tiny, tmp_path):
    def edit(tensors):
        tensors["transformer.h.0.adapter.weight"] = torch.ones(3)

    source = tiny("gpt2")
    more = edited(source, tmp_path / "more", edit)
    assert "unexpected: transformer.h.0.adapter.weight" in verified(source, more).reasons[0]
    both = verified(more, more)
    assert both.verdict == "pass"
    assert any("adapter.weight" in note for note in both.notes)


def test_a_key_that_neither_has_is_filled_alike(tiny, tmp_path):
    def edit(tensors):
        del tensors[find(tensors, "h.1.mlp.c_fc.weight")]

    source = edited(tiny("gpt2"), tmp_path / "lacking", edit)
    found = verified(source, source)
    assert found.verdict == "pass"
    assert found.outputs["logits"].difference.max == 0.0
    assert any("h.1.mlp.c_fc.weight" in note for note in found.notes)


def test_mismatched_shapes_fail(tiny, tmp_path):
    def edit(tensors):
        name = find(tensors, "h.1.mlp.c_fc.bias")
        tensors[name] = tensors[name][:-1].clone()

    source = tiny("gpt2")
    found = verified(source, edited(source, tmp_path / "out", edit))
    assert found.load_report.mismatched == ("transformer.h.1.mlp.c_fc.bias",)
    assert found.verdict == "fail"


@pytest.mark.parametrize("contract", ["exact", "lossy"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_values_fail_under_every_contract(tiny, tmp_path, value, contract):
    def edit(tensors):
        tensors[find(tensors, "h.1.mlp.c_fc.weight")][0, 0] = value

    source = tiny("gpt2")
    found = verified(source, edited(source, tmp_path / "out", edit), contract=contract)
    assert found.verdict == "fail"
    assert any("finite on one side only" in reason for reason in found.reasons)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_reference_without_finite_values_is_refused(tiny, tmp_path):
    def edit(tensors):
        tensors[find(tensors, "ln_f.weight")].fill_(math.nan)

    bad = edited(tiny("gpt2"), tmp_path / "bad", edit)
    with pytest.raises(CheckpointError, match="no finite value in logits"):
        verified(bad, bad)


def test_a_rounded_copy_fails_at_the_reference_dtype_and_passes_at_its_own(trained, tmp_path):
    rounded = edited(trained, tmp_path / "rounded", cast(torch.bfloat16))
    assert verified(trained, rounded).verdict == "fail"
    lower = verified(trained, rounded, dtype="bfloat16").to_dict()
    assert (lower["verdict"], lower["dtype"]) == ("pass", "bfloat16")
    assert lower["noise_floor"]["against"] == "float32"


def test_low_precision_can_be_held_against_float64(trained, tmp_path):
    source = edited(trained, tmp_path / "source", cast(torch.bfloat16))
    candidate = edited(source, tmp_path / "centred", centre_gpt2)
    found = verified(source, candidate, against_float64=True).to_dict()
    assert found["noise_floor"]["against"] == "float64"
    assert found["verdict"] == "pass"


def test_malformed_files_are_a_checkpoint_error(tiny, tmp_path):
    broken = shutil.copytree(tiny("gpt2"), tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        verified(tiny("gpt2"), broken)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        verified(broken, tiny("gpt2"))


def test_a_reference_that_does_not_load_is_a_checkpoint_error(tiny, tmp_path):
    bad = edited(tiny("gpt2"), tmp_path / "bad", lambda _: None, n_head=5)
    with pytest.raises(CheckpointError, match=r"the reference .* does not load: .*num_heads"):
        verified(bad, tiny("gpt2"))


def test_a_candidate_that_does_not_load_fails_with_its_reason(tiny, tmp_path):
    bad = edited(tiny("gpt2"), tmp_path / "bad", lambda _: None, n_head=5)
    found = verified(tiny("gpt2"), bad)
    assert found.verdict == "fail"
    assert "does not load or run: ValueError" in found.reasons[0]
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("families", "reason"),
    [
        (("gpt2", "esm"), "different tasks"),
        (("gpt2", "vit"), "different tasks"),
        (("vit", "dinov2_swiglu"), "different tasks"),
    ],
)
def test_what_cannot_be_compared_is_a_usage_error(tiny, families, reason):
    with pytest.raises(UsageError, match=reason):
        verified(*(tiny(family) for family in families))


def test_other_vocabularies_are_a_usage_error(tiny, tmp_path):
    def edit(tensors):
        name = find(tensors, "wte.weight")
        tensors[name] = tensors[name][:90].clone()

    source = tiny("gpt2")
    smaller = edited(source, tmp_path / "smaller", edit, vocab_size=90)
    with pytest.raises(UsageError, match="different vocabularies: 99 tokens against 90"):
        verified(source, smaller)


@pytest.mark.parametrize(
    "options", [{"dtype": "float8"}, {"device": "abacus"}, {"contract": "fair"}, {"tokens": 1}]
)
def test_wrong_options_are_usage_errors(tiny, options):
    with pytest.raises(UsageError):
        verified(tiny("gpt2"), tiny("gpt2"), **options)
