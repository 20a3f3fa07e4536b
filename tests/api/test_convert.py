"""`convert` from a directory to a verified directory."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file, save_file

import normsurgery
from normsurgery.checkpoint import write_weights
from tests.families import EXACT, FAMILIES, REFUSED

CASES = [(family, "float32") for family in EXACT] + [(family, "bfloat16") for family in EXACT[::6]]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_every_family_is_converted_and_verified_on_its_real_files(tiny, tmp_path, family, dtype):
    source = tiny(family, dtype=dtype)
    result = normsurgery.convert(source, tmp_path / "out", target="stock").to_dict()
    assert result["verification"]["verdict"] == "pass"
    for form in ("stock", "graft"):
        assert result["verification"][form]["verdict"] == "pass"
    proof = result["proof"]
    assert set(proof["errors"]) == set(proof["controls"]) == {"stock", "graft"}
    assert max(proof["errors"].values()) <= 1e-9 and proof["probe"] <= 1e-9
    assert min(proof["controls"].values()) > 1e-4
    assert result["target"]["architecture"] == FAMILIES[family][0]


@pytest.mark.parametrize("family", REFUSED)
def test_a_refusal_gives_its_reason_and_writes_nothing(tiny, tmp_path, family):
    with pytest.raises(normsurgery.UnsupportedModelError) as caught:
        normsurgery.convert(tiny(family), tmp_path / "out")
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_trained_model_keeps_everything_but_the_writers(trained, tmp_path):
    out = tmp_path / "out"
    document = normsurgery.convert(trained, out).to_dict()
    before, after = (load_file(d / "model.safetensors") for d in (trained, out))
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    writers = {f"transformer.h.{i}.{m}.c_proj.{p}" for i in range(6) for m in ("attn", "mlp")
               for p in ("weight", "bias")}  # fmt: skip
    assert changed == writers | {"transformer.wpe.weight"}
    assert document["receipts"][0]["tensors"] == {
        "kept": len(before) - len(changed), "changed": len(changed), "added": 0, "dropped": 0,
    }  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (trained / name).read_bytes()
    ours = json.loads((out / "config.json").read_text())
    theirs = json.loads((trained / "config.json").read_text())
    assert {key: value for key, value in ours.items() if key != "auto_map"} == theirs


def test_the_papers_say_what_was_done_and_no_path(trained, tmp_path):
    out = tmp_path / "out"
    normsurgery.convert(trained, out)
    papers = json.loads((out / "surgery.json").read_text())
    weights = (out / "model.safetensors").read_bytes()
    assert papers["files"]["result"]["model.safetensors"] == sha256(weights).hexdigest()
    source = (trained / "model.safetensors").read_bytes()
    assert papers["files"]["source"] == {"model.safetensors": sha256(source).hexdigest()}
    assert papers["verification"]["verdict"] == "pass"
    changed = papers["receipts"][0]["names"]["changed"]
    assert (
        "transformer.h.{0-5}.attn.c_proj.weight" in changed and "transformer.wpe.weight" in changed
    )
    assert (
        set(papers["config_diff"]) == {"auto_map"} and papers["config_diff"]["auto_map"][0] is None
    )
    for name in ("surgery.json", "README.md", "modeling_rmsnorm.py", "config.json"):
        assert str(tmp_path) not in (out / name).read_text()
        assert str(trained.parent) not in (out / name).read_text()


def test_the_same_source_and_options_give_the_same_bytes(trained, tmp_path):
    def digest(name):
        normsurgery.convert(trained, tmp_path / name, verify=False)
        return {
            file.name: sha256(file.read_bytes()).hexdigest() for file in (tmp_path / name).iterdir()
        }

    assert digest("one") == digest("two")


def test_a_dry_run_reads_and_writes_nothing(trained, tmp_path):
    document = normsurgery.convert(trained, tmp_path / "out", dry_run=True).to_dict()
    assert list(tmp_path.iterdir()) == []
    assert document["output"] is None
    assert document["plan"]["tensors"]["changed"] == 25
    assert "auto_map" in document["plan"]["config_diff"]
    assert document["verification"]["verdict"] == "skipped"


def test_nonfinite_weights_are_refused(trained, tmp_path):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(trained, spoiled)
    tensors = load_file(spoiled / "model.safetensors")
    tensors["transformer.h.3.mlp.c_fc.weight"][0, 0] = float("nan")
    save_file(tensors, spoiled / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(normsurgery.CheckpointError, match=r"h\.3\.mlp\.c_fc\.weight"):
        normsurgery.convert(spoiled, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_verification_moves_nothing_into_place(trained, tmp_path, monkeypatch):
    """A corruption between the surgery and the disk is caught on the saved files."""
    import normsurgery.api.writing as module

    real = write_weights

    def corrupting(result, directory, **options):
        records = real(result, directory, **options)
        file = directory / "model.safetensors"
        tensors = load_file(file)
        tensors["transformer.h.2.mlp.c_proj.weight"] *= 1.02
        save_file(tensors, file, metadata={"format": "pt"})
        return records

    monkeypatch.setattr(module, "write_weights", corrupting)
    with pytest.raises(normsurgery.VerificationError, match="verification failed") as caught:
        normsurgery.convert(trained, tmp_path / "out")
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(normsurgery.VerificationError):
        normsurgery.convert(trained, tmp_path / "out", keep_failed=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.failed"]


def test_a_tensor_that_config_does_not_describe_stops_the_run(trained, tmp_path):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(trained, spoiled)
    config = json.loads((spoiled / "config.json").read_text())
    (spoiled / "config.json").write_text(json.dumps({**config, "n_embd": 120}))
    with pytest.raises(normsurgery.CheckpointError, match=r"has shape .* config\.json asks for"):
        normsurgery.convert(spoiled, tmp_path / "out")
    (spoiled / "config.json").write_text(json.dumps({**config, "n_layer": 5}))
    with pytest.raises(normsurgery.CheckpointError, match="no parameter of GPT2LMHeadModel"):
        normsurgery.convert(spoiled, tmp_path / "out")


def test_dtype_casts_before_the_algebra_when_it_widens(trained, tmp_path):
    result = normsurgery.convert(trained, tmp_path / "out", dtype="float64", verify=False)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float64}
    mean = weights["transformer.h.0.mlp.c_proj.weight"].mean(1).abs().max()
    assert mean < 1e-15, "centred in float64, not in the rounded float32"
    assert result.to_dict()["receipts"][0]["surgery"] == "cast"


@pytest.mark.parametrize("options", [{"untie": True}, {"fold_affine": True}, {"to": "crmsnorm"}])
def test_the_other_forms_are_verified_on_a_trained_model(trained, tmp_path, options):
    document = normsurgery.convert(trained, tmp_path / "out", **options).to_dict()
    assert document["verification"]["verdict"] == "pass"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_cast_is_held_to_the_noise_of_its_dtype(trained, tmp_path, dtype):
    document = normsurgery.convert(trained, tmp_path / "out", dtype=dtype, fold_affine=True)
    verification = document.to_dict()["verification"]
    assert verification["verdict"] == "pass"
    assert verification["stock"]["dtype"] == dtype
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype


def test_shards_are_kept_and_can_be_cut(trained, tmp_path):
    normsurgery.convert(trained, tmp_path / "cut", max_shard_size="1MB", verify=False)
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    normsurgery.convert(tmp_path / "cut", tmp_path / "again", verify=False)
    assert sorted(p.name for p in (tmp_path / "again").glob("*.safetensors")) == files


def test_crmsnorm_has_no_stock_form(trained, tmp_path):
    with pytest.raises(normsurgery.UsageError, match="narrower than any stock class"):
        normsurgery.convert(trained, tmp_path / "out", to="crmsnorm", target="stock")
