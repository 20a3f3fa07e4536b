"""Checkpoints as they are found: old names, both copies of a tied table, shards, pickles."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import normsurgery


def _rewritten(source, directory, rename, *, extra=None):
    """A copy of a tiny checkpoint with other tensor names."""
    shutil.copytree(source, directory)
    tensors = {rename(n): t for n, t in load_file(source / "model.safetensors").items()}
    save_file(
        {**tensors, **(extra or {})}, directory / "model.safetensors", metadata={"format": "pt"}
    )
    return directory


def _names(directory):
    with safe_open(directory / "model.safetensors", "pt") as file:
        return set(file.keys())


def _converted(source, out, **options):
    document = normsurgery.convert(source, out, **options).to_dict()
    assert document["verification"]["verdict"] == "pass"
    return document


def test_an_old_gpt2_without_the_prefix_and_with_its_masks(tiny, tmp_path):
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64).tril().bool() for i in range(3)}
    source = _rewritten(
        tiny("gpt2"), tmp_path / "old", lambda name: name.removeprefix("transformer."), extra=masks
    )
    _converted(source, tmp_path / "out")
    assert _names(tmp_path / "out") == _names(source)
    kept = load_file(tmp_path / "out" / "model.safetensors")["h.0.attn.bias"]
    assert torch.equal(kept, masks["h.0.attn.bias"])


def test_pythia_s_own_name_for_the_head(tiny, tmp_path):
    source = _rewritten(
        tiny("gpt_neox"), tmp_path / "pythia", lambda name: name.replace("lm_head.", "embed_out.")
    )
    _converted(source, tmp_path / "out")
    assert "embed_out.weight" in _names(tmp_path / "out")


@pytest.mark.parametrize("options", [{}, {"untie": True}, {"fold_affine": True}])
def test_a_file_with_both_copies_of_a_tied_table(tiny, tmp_path, options):
    table = load_file(tiny("gpt2") / "model.safetensors")["transformer.wte.weight"]
    source = _rewritten(
        tiny("gpt2"), tmp_path / "both", lambda name: name, extra={"lm_head.weight": table.clone()}
    )
    _converted(source, tmp_path / "out", **options)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(after["lm_head.weight"], table)
    centred = abs(float(after["transformer.wte.weight"].double().mean(1).abs().max())) < 1e-6
    assert centred is bool(options.get("untie"))


def test_a_base_model_s_checkpoint(tiny, tmp_path):
    source = _rewritten(
        tiny("gpt2"), tmp_path / "base", lambda name: name.removeprefix("transformer.")
    )
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2Model"]}))
    document = _converted(source, tmp_path / "out")
    assert document["target"]["auto_class"] == "AutoModel"


def test_pickles_only_with_permission_and_out_comes_safetensors(tiny, tmp_path):
    source = tmp_path / "pickled"
    source.mkdir()
    torch.save(load_file(tiny("opt") / "model.safetensors"), source / "pytorch_model.bin")
    shutil.copy(tiny("opt") / "config.json", source)
    with pytest.raises(normsurgery.CheckpointError, match="pickle"):
        normsurgery.convert(source, tmp_path / "out")
    _converted(source, tmp_path / "out", allow_pickle=True)
    assert _names(tmp_path / "out") == _names(tiny("opt"))


def test_two_gated_layers_in_one_tensor(tiny, tmp_path):
    """DINOv2-giant's own files fuse the SwiGLU's two inputs; they are neither lost nor split."""
    parts = load_file(tiny("dinov2_swiglu") / "model.safetensors")
    assert any("weights_in" in name for name in parts), "transformers writes the fused form"
    _converted(tiny("dinov2_swiglu"), tmp_path / "out")
    assert _names(tmp_path / "out") == set(parts)
    document = _converted(tiny("dinov2_swiglu"), tmp_path / "folded", fold_affine=True)
    assert document["receipts"][0]["parameters"] == {"folded": 3, "kept": 4}
    assert any("is only a piece of" in note for note in document["receipts"][0]["notes"])
