"""Every modality through the same door: passes untouched, fails when damaged."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.verify.helpers import edited, verified

OUTPUTS = {
    "llama": {"logits"},
    "opt": {"logits"},
    "bloom": {"logits"},
    "esm": {"logits"},
    "vit": {"logits"},
    "dinov2_swiglu": {"last_hidden_state", "pooler_output"},
    "whisper": {"logits", "encoder_last_hidden_state"},
    "bart": {"logits", "encoder_last_hidden_state"},
    "clip": {"logits_per_image", "logits_per_text", "text_embeds", "image_embeds"},
}
GENERATES = {"llama", "opt", "bloom", "whisper", "bart"}


@pytest.mark.parametrize("family", OUTPUTS)
def test_all_outputs_are_compared(tiny, family, tmp_path):
    source = tiny(family)
    found = verified(source, source)
    assert found.verdict == "pass", found.reasons
    assert set(found.outputs) == OUTPUTS[family]
    assert all(figures.difference.max == 0 for figures in found.outputs.values())
    assert all(figures.std > 0 for figures in found.outputs.values())
    assert (found.generation is not None) == (family in GENERATES)

    last = [n for n, t in load_file(source / "model.safetensors").items() if t.dim() == 2][-1]

    def edit(tensors):
        tensors[last] = tensors[last] * 1.001 + 1e-3

    assert verified(source, edited(source, tmp_path / "damaged", edit)).verdict == "fail"


def test_only_guaranteed_outputs_are_compared_on_request(tiny, tmp_path):
    def edit(tensors):
        tensors["text_projection.weight"][0] += 0.5  # (scaling it would be undone by the norm)

    source = tiny("clip")
    damaged = edited(source, tmp_path / "damaged", edit)
    assert verified(source, damaged).verdict == "fail"
    found = verified(source, damaged, outputs=("image_embeds",))
    assert found.verdict == "pass"
    assert any("text_embeds" in note for note in found.notes)


def test_hard_casts_are_seen_and_relax_the_float64_bound(tiny):
    source = tiny("llama", dtype="float64")
    found = verified(source, source)
    assert found.outputs["logits"].allowed == 1e-4
    assert any("casts float64 to float32" in note for note in found.notes)
    clean = verified(tiny("opt", dtype="float64"), tiny("opt", dtype="float64"))
    assert clean.outputs["logits"].allowed == 1e-9


def test_padding_that_overflows_in_float64_gives_way(tiny):
    source = tiny("bloom", dtype="float64")
    found = verified(source, source)
    assert any(note.startswith("padding: right") for note in found.notes)
    assert not any("not finite" in note for note in found.notes)


@pytest.mark.parametrize(("dtype", "truth"), [(None, "float64"), ("float64", "float32")])
def test_code_that_fails_in_float64_is_helped_or_held_to_float32(tmp_path, dtype, truth):
    from transformers import XGLMConfig, XGLMForCausalLM

    torch.manual_seed(0)
    XGLMForCausalLM(
        XGLMConfig(d_model=32, num_layers=2, attention_heads=4, ffn_dim=48, vocab_size=99)
    ).save_pretrained(tmp_path / "xglm")

    def edit(tensors):
        tensors["model.layers.0.fc1.weight"] *= 1.001

    found = verified(tmp_path / "xglm", tmp_path / "xglm", dtype=dtype)
    assert found.truth_dtype == truth
    assert any("cannot run in float64" in note for note in found.notes) is (truth == "float32")
    floor = found.outputs["logits"].floor
    assert floor is not None
    assert 0 < floor.rest.max < 1e-5
    damaged = edited(tmp_path / "xglm", tmp_path / "damaged", edit)
    assert verified(tmp_path / "xglm", damaged, dtype=dtype).verdict == "fail"
