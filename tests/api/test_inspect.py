"""`inspect` tells what a checkpoint is made of."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import normsurgery


def test_a_trained_gpt2(trained):
    document = normsurgery.inspect(trained).to_dict()
    assert document["source"] == {
        "model": "tiny-gpt2-6x96", "revision": None, "model_type": "gpt2",
        "architecture": "GPT2LMHeadModel", "parameters": 781824, "bytes": 3127296, "dtype": "F32",
    }  # fmt: skip
    (block,) = document["blocks"]
    assert (block["name"], block["count"]) == ("transformer.h", 6)
    assert sum(part["parameters"] for part in document["parts"]) == 781824
    assert len(document["norms"]) == 13
    assert {norm["role"] for norm in document["norms"]} == {"attention", "mlp", "final"}
    assert document["health"] is None
    surgeries = {row["name"]: row for row in document["surgeries"]}
    contracts = {row["contract"] for name, row in surgeries.items() if name.startswith("convert")}
    assert contracts == {"exact"}
    assert surgeries["convert --to rmsnorm"]["applies"]
    assert "12 of 13" in surgeries["convert --to rmsnorm --fold-affine"]["reason"]
    assert surgeries["convert --to crmsnorm"]["applies"]
    assert surgeries["remove-ln"]["applies"]


def test_a_model_that_is_refused_says_why(tiny):
    for family, reason in (("bert", "post-LN"), ("llama", "RMSNorm already")):
        rows = [
            row
            for row in normsurgery.inspect(tiny(family)).to_dict()["surgeries"]
            if row["name"].startswith("convert")
        ]
        assert rows and not any(row["applies"] for row in rows)
        assert all(reason in row["reason"] for row in rows)


@pytest.mark.parametrize(
    ("family", "name", "reason"),
    [
        ("whisper", "convert --to crmsnorm", "gelu"),
        ("dinov2", "convert --to crmsnorm", "reads it with cat"),
        ("vit", "convert --to rmsnorm --untie", "no table is tied"),
        ("olmo", "convert --to rmsnorm --fold-affine", "it has none"),
        ("vit", "remove-ln", "does not predict the next token"),
    ],
)
def test_a_surgery_that_does_not_apply_says_why(tiny, family, name, reason):
    rows = {r["name"]: r for r in normsurgery.inspect(tiny(family)).to_dict()["surgeries"]}
    assert not rows[name]["applies"]
    assert reason in rows[name]["reason"]


def test_what_inspect_promises_convert_keeps(tiny, tmp_path):
    """Every row that applies runs, every row that does not is refused: on four families."""
    requests: dict[str, Any] = {
        "convert --to rmsnorm": {},
        "convert --to rmsnorm --target native": {"target": "native"},
        "convert --to rmsnorm --target graft": {"target": "graft"},
        "convert --to rmsnorm --untie": {"untie": True},
        "convert --to crmsnorm": {"to": "crmsnorm"},
    }
    for family in ("bloom", "whisper", "olmo", "bert"):
        rows = {r["name"]: r for r in normsurgery.inspect(tiny(family)).to_dict()["surgeries"]}
        for name, request in requests.items():
            out = tmp_path / f"{family}{len(list(tmp_path.iterdir()))}"
            if rows[name]["applies"]:
                normsurgery.convert(tiny(family), out, verify=False, **request)
                assert out.is_dir()
            elif name != "convert --to rmsnorm --untie":
                with pytest.raises(normsurgery.UnsupportedModelError):
                    normsurgery.convert(tiny(family), out, verify=False, **request)


def test_health_counts_what_is_not_finite_and_finds_what_is_zero(trained, tmp_path):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(trained, spoiled)
    tensors = load_file(spoiled / "model.safetensors")
    tensors["transformer.wpe.weight"][3, :2] = float("nan")
    tensors["transformer.wpe.weight"][4, 0] = float("inf")
    tensors["transformer.h.0.ln_1.bias"].zero_()
    save_file(tensors, spoiled / "model.safetensors", metadata={"format": "pt"})
    health = normsurgery.inspect(spoiled, health=True).to_dict()["health"]
    assert health["nonfinite"] == [{"name": "transformer.wpe.weight", "nan": 2, "inf": 1}]
    assert health["all_zero"] == ["transformer.h.0.ln_1.bias"]


def test_a_document_is_json(tiny):
    json.dumps(normsurgery.inspect(tiny("clip")).to_dict())
