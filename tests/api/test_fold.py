"""`fold` from a directory to a verified directory."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

import normsurgery
from normsurgery.cli import main
from normsurgery.errors import UnsupportedModelError, UsageError
from tests.surgery.fold_models import built, with_processor

BIASES = "norm,key-bias,value-bias"


@pytest.fixture(scope="module")
def folded(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("fold") / "out"
    return out, normsurgery.fold(trained, out, what=BIASES).to_dict()


def test_several_folds_are_one_pass_and_one_proof(folded):
    out, document = folded
    assert document["command"] == "fold" and document["output"] == str(out)
    assert [one["surgery"] for one in document["receipts"]] == ["norm", "value-bias", "key-bias"]
    assert {one["contract"] for one in document["receipts"]} == {"exact"}
    assert document["proof"]["errors"]["stock"] <= 1e-9 < document["proof"]["controls"]["stock"]
    verification = document["verification"]
    assert (verification["verdict"], verification["contract"]) == ("pass", "exact")
    values = load_file(out / "model.safetensors")
    assert (values["transformer.h.3.ln_1.weight"] == 1).all()
    queries, keys, rest = values["transformer.h.3.attn.c_attn.bias"].chunk(3)
    assert queries.any() and not keys.any() and not rest.any()  # W β too is gone from them


def test_what_is_left_is_said(folded):
    out, document = folded
    counts = {one["name"]: one["count"] for one in document["folds"]}
    assert counts == {"value-bias": 6, "key-bias": 6, "norm": 12}
    (left,) = [one["left"] for one in document["folds"] if one["left"]]
    assert left == {"transformer.ln_f": "transformer.wte.weight is read by transformer.wte too"}
    papers = json.loads((out / "surgery.json").read_text())
    assert papers["recipe"]["steps"] == [
        {
            "surgery": "fold", "what": ["norm", "value-bias", "key-bias"], "untie": False,
            "rotation": "hadamard", "data": None, "reference": None, "dtype": None,
            "max_shard_size": None, "allow_nonfinite": False, "plots": False,
        }
    ]  # fmt: skip
    card = (out / "README.md").read_text()
    assert "norm, value-bias and key-bias folded" in card
    assert "| norm | transformer.ln_f | 1 |" in card and "trust_remote_code" not in card


def test_a_wider_dtype_is_taken_before_anything_rounds(tmp_path):
    source = built("llama_tied", tmp_path / "source", dtype="bfloat16")
    out = tmp_path / "out"
    document = normsurgery.fold(source, out, what="norm", untie=True, dtype="float64").to_dict()
    assert [one["surgery"] for one in document["receipts"]] == ["cast", "untie", "norm"]
    assert document["verification"]["verdict"] == "pass"
    values = load_file(out / "model.safetensors")
    assert (values["model.norm.weight"] == 1).all()
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    before = load_file(source / "model.safetensors")
    table, gain = (before[f"model.{n}.weight"].double() for n in ("embed_tokens", "norm"))
    assert torch.equal(values["lm_head.weight"], table * gain)


def test_a_narrower_dtype_is_the_last_step(tmp_path):
    source = built("granite", tmp_path / "source", dtype="float32")
    document = normsurgery.fold(
        source, tmp_path / "out", what=["mup", "layerscale"], dtype="float16", verify=False
    ).to_dict()
    assert [one["surgery"] for one in document["receipts"]] == ["mup", "cast"]
    (other,) = [one for one in document["folds"] if not one["applies"]]
    assert other["name"] == "layerscale" and "no per-channel gain" in other["why_not"]


def test_pictures_give_the_same_classes_without_normalization(tmp_path):
    source = with_processor(built("vit", tmp_path / "source", dtype="float32"))
    out = tmp_path / "out"
    document = normsurgery.fold(source, out, what="image-norm").to_dict()
    assert document["verification"]["verdict"] == "pass"
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8))
    logits, given = [], []
    for directory in (source, out):
        processor = AutoImageProcessor.from_pretrained(directory)
        inputs = processor(picture, return_tensors="pt")
        model = AutoModelForImageClassification.from_pretrained(directory).eval()
        with torch.no_grad():
            logits.append(model(**inputs).logits)
        given.append(inputs["pixel_values"])
    assert not torch.allclose(given[0], given[1], atol=1) and given[1].max() > 100
    torch.testing.assert_close(*logits, rtol=0, atol=2e-5 * float(logits[0].std()))
    kept = json.loads((out / "preprocessor_config.json").read_text())
    assert (kept["do_normalize"], kept["rescale_factor"]) == (False, 1.0)
    assert kept["size"] == {"height": 32, "width": 32}


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("resnet", {}, "pads with zeros"),
        ("pixtral", {}, "has no bias to take the mean, and no positions after it"),
        ("vit", {"do_normalize": False}, "does not normalize"),
        ("vit", {"do_pad": True}, "pads with zeros after it normalizes"),
        ("vit", {"image_mean": [0.5]}, "do not fit each other"),
        ("vit", {"image_mean": [0.5], "image_std": [0.5]}, "1 channels, the model of 3"),
        ("vit", {"image_std": [0.5, 0.0, 0.5]}, "do not fit each other"),
        ("vit", {"image_mean": "half"}, "image_mean of the image processor is 'half'"),
        ("vit", {"rescale_factor": 0}, "rescale_factor is zero"),
    ],
)
def test_pictures_that_cannot_be_folded(tmp_path, family, changes, reason):
    source = with_processor(built(family, tmp_path / "source"), **changes)
    with pytest.raises(UnsupportedModelError, match=reason):
        normsurgery.fold(source, tmp_path / "out", what="image-norm")
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_processor_or_with_a_broken_one(tmp_path):
    source = built("vit", tmp_path / "source")
    with pytest.raises(UnsupportedModelError, match="no image processor"):
        normsurgery.fold(source, tmp_path / "out", what="image-norm")
    (source / "preprocessor_config.json").write_text("{")
    with pytest.raises(UnsupportedModelError, match="is not JSON"):
        normsurgery.fold(source, tmp_path / "out", what="image-norm")


def test_without_a_bias_the_positions_take_the_mean(tmp_path):
    source = with_processor(built("clip_vision", tmp_path / "source"))
    out = tmp_path / "out"
    document = normsurgery.fold(source, out, what="image-norm").to_dict()
    assert document["verification"]["verdict"] == "pass"
    name = "embeddings.position_embedding.weight"
    before, after = (load_file(d / "model.safetensors") for d in (source, out))
    (name,) = [key for key in before if key.endswith(name)]
    moved = after[name] - before[name]
    assert not moved[0].any()  # the class token is no patch
    torch.testing.assert_close(moved[1:], moved[1:2].expand_as(moved[1:]), rtol=1e-9, atol=1e-12)


def test_a_dry_run_writes_nothing(trained, tmp_path):
    document = normsurgery.fold(trained, tmp_path / "out", what="norm", dry_run=True).to_dict()
    assert document["plan"]["contract"] == "exact" and document["output"] is None
    assert document["plan"]["tensors"]["changed"] == 48
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"what": "gamma"}, "no such fold"),
        ({"what": "norm", "rotation": "givens"}, "--rotation givens"),
        ({"what": "norm", "dtype": "int8"}, "--dtype int8"),
        ({"what": "recalibrate,norm"}, "stands alone"),
        ({"what": "recalibrate"}, "measures on data"),
        ({"what": "recalibrate", "untie": True}, "takes no --untie"),
    ],
)
def test_requests_that_make_no_sense(trained, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        normsurgery.fold(trained, tmp_path / "out", **arguments)


def test_nothing_to_untie(tmp_path):
    source = built("llama", tmp_path / "source")
    with pytest.raises(UsageError, match="nothing is tied"):
        normsurgery.fold(source, tmp_path / "out", what="norm", untie=True)


def test_inspect_has_a_row_a_fold(trained):
    rows = {r["name"]: r for r in normsurgery.inspect(trained).to_dict()["surgeries"]}
    assert rows["fold --what norm"]["reason"] == "12 sites, 1 left"
    assert rows["fold --what value-bias"]["applies"] and rows["fold --what key-bias"]["applies"]
    for name in ("weight-norm", "image-norm", "layerscale", "mup", "query-scale"):
        row = rows[f"fold --what {name}"]
        assert not row["applies"] and row["reason"] and row["contract"] == "exact"


def test_the_command_prints_what_it_left(trained, tmp_path, capsys):
    arguments = ["fold", str(trained), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--what", "norm", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "Left as it is" in printed and "transformer.ln_f" in printed
    assert main([*arguments, "--what", "mup"]) == 4
    assert "no key of its configuration" in capsys.readouterr().err
