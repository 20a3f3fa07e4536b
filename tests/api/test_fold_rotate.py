"""`fold --what norm,rotate`: the same model, its stream without outliers, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageClassification

from normsurgery.api.fold import fold
from normsurgery.api.folding.kurtosis import Moments, stream_kurtosis
from normsurgery.errors import UnsupportedModelError
from normsurgery.verify import ModelSource
from tests.conftest import Tiny
from tests.families import build_spec

SPIKED = 3  # the channel that outweighs all others in the source
WIDTH = 48
_LLAMA: dict[str, Any] = {
    "hidden_size": WIDTH, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "intermediate_size": 40, "vocab_size": 99,
    "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def spiked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose stream has one channel a hundred times as large as the others."""
    directory = tmp_path_factory.mktemp("spiked") / "model"
    build_spec(("LlamaForCausalLM", "LlamaConfig", _LLAMA), directory)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][:, SPIKED] = 40.0
    save_file(tensors, file, metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def rotated(spiked: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("rotated") / "out"
    return out, fold(spiked, out, what="rotate,norm", device="cpu", seed=5).to_dict()


def stream(directory: Path, ids: torch.Tensor) -> torch.Tensor:
    """What enters the second block."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        found: torch.Tensor = model(ids, output_hidden_states=True).hidden_states[1]
    return found.double()


def test_the_model_is_the_same_and_the_spike_is_gone(
    spiked: Path, rotated: tuple[Path, dict[str, Any]]
) -> None:
    out, document = rotated
    assert document["verification"]["verdict"] == "pass"
    assert document["proof"]["errors"]["stock"] < 1e-12
    ids = torch.randint(3, 99, (2, 20), generator=torch.Generator().manual_seed(0))
    before, after = stream(spiked, ids), stream(out, ids)
    assert torch.allclose(before.norm(dim=-1), after.norm(dim=-1), rtol=1e-5)
    assert int(before.abs().mean((0, 1)).argmax()) == SPIKED
    kurtosis = [float((x**4).mean() / (x**2).mean() ** 2) for x in (before, after)]
    assert kurtosis[0] > 30 and kurtosis[1] < 4


def test_the_document_has_the_stream_s_outliers_and_the_rotation(
    rotated: tuple[Path, dict[str, Any]],
) -> None:
    out, document = rotated
    found = document["kurtosis"]
    assert found["measured"] and found["tokens"] > 1000
    assert [row["block"] for row in found["blocks"]] == ["model.layers.0", "model.layers.1"]
    for row in found["blocks"]:
        for place in (row, row["position_0"]):
            assert place["before"]["kurtosis"] > 30 and place["after"]["kurtosis"] < 4
            assert place["before"]["largest_over_median"] > 20
            assert place["after"]["largest_over_median"] < 4
    papers = json.loads((out / "surgery.json").read_text())
    (receipt,) = [one for one in papers["receipts"] if one["surgery"] == "rotate"]
    (q,) = receipt["parameters"]["streams"]
    assert (q["kind"], q["width"], q["seed"]) == ("hadamard", WIDTH, 5) and len(q["sha256"]) == 64
    assert papers["kurtosis"] == found
    card = (out / "README.md").read_text()
    assert "The stream's outliers" in card and "first: model.layers.0" in card
    assert any("hidden_states" in note for note in document["notes"])


def test_another_seed_is_another_rotation_and_the_same_one_the_same(
    spiked: Path, rotated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    for out, seed in ((again, 5), (other, 6)):
        document = fold(spiked, out, what="norm,rotate", seed=seed, verify=False).to_dict()
        assert document["kurtosis"] == {
            "measured": False, "why_not": "the saved model was not verified", "tokens": 0,
            "blocks": [],
        }  # fmt: skip
    file = "model.safetensors"
    assert (again / file).read_bytes() == (rotated[0] / file).read_bytes()
    assert (other / file).read_bytes() != (again / file).read_bytes()


def test_what_two_folds_change_is_rounded_once(spiked: Path, tmp_path: Path) -> None:
    source = tmp_path / "half"
    spec = ("LlamaForCausalLM", "LlamaConfig", _LLAMA)
    build_spec(spec, source, dtype="bfloat16")
    fold(source, tmp_path / "out", what="norm,rotate", verify=False)
    wide = {name: tensor.double() for name, tensor in load_file(source / FILE).items()}
    (tmp_path / "wide").mkdir()
    save_file(wide, tmp_path / "wide" / FILE, metadata={"format": "pt"})
    (tmp_path / "wide" / "config.json").write_bytes((source / "config.json").read_bytes())
    fold(tmp_path / "wide", tmp_path / "exact", what="norm,rotate", verify=False)
    rounded, exact = load_file(tmp_path / "out" / FILE), load_file(tmp_path / "exact" / FILE)
    for name, tensor in exact.items():
        assert torch.equal(rounded[name], tensor.bfloat16()), name


FILE = "model.safetensors"


def test_a_layer_norm_model_rotates_where_its_mean_stays(tiny: Tiny, tmp_path: Path) -> None:
    """ViT's LayerNorms centre; the all-ones vector is kept. Pictures have no position 0."""
    document = fold(tiny("vit"), tmp_path / "out", what="norm,rotate", device="cpu").to_dict()
    assert document["verification"]["verdict"] == "pass"
    assert any("keeps the all-ones vector" in note for note in document["notes"])
    rows = document["kurtosis"]["blocks"]
    assert len(rows) == 3 and all(row["position_0"]["before"] is None for row in rows)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    source = AutoModelForImageClassification.from_pretrained(tiny("vit"))
    picture = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(picture).logits, source(picture).logits, atol=1e-4)


def test_rotating_alone_is_refused_with_the_way_out(spiked: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="--what norm,rotate"):
        fold(spiked, tmp_path / "out", what="rotate")
    assert not (tmp_path / "out").exists()


def test_moments_are_those_of_the_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 16, generator=generator, dtype=torch.float64) * torch.arange(1.0, 17)
    moments = Moments()
    moments.add(rows[:20])
    moments.add(torch.cat([rows[20:], torch.zeros(2, 16)]))
    found = moments.to_dict()
    assert found is not None
    each = rows.pow(4).mean(1) / rows.pow(2).mean(1) ** 2
    assert found["kurtosis"] == pytest.approx(float(each.mean()))
    sizes = rows.pow(2).mean(0).sqrt()
    assert found["largest_over_median"] == pytest.approx(float(sizes.max() / sizes.median()))
    assert Moments().to_dict() is None


def test_a_model_too_large_for_memory_is_not_measured_and_says_so(
    spiked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normsurgery.api.folding.kurtosis.available_memory_bytes", lambda: 1000)
    source = ModelSource(spiked)
    found = stream_kurtosis(source, source, ["model.layers.0"], data=None, device="cpu", seed=0)
    assert not found["measured"] and "are free" in found["why_not"]
