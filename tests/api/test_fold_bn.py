"""`fold_bn`: every form proved on families of each kind, and what comes out of it."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import normsurgery
from normsurgery.anatomy.runtime import quiet
from normsurgery.api.batchnorm import BatchNormFolding, plan_folding
from normsurgery.api.batchnorm_verify import selects, verify_folding
from normsurgery.api.writing import Writing
from normsurgery.checkpoint import open_checkpoint, write_weights
from normsurgery.errors import CheckpointError, UnsupportedModelError, VerificationError
from normsurgery.surgery.cast import cast
from tests.batchnorm_families import build_batch_norms
from tests.families import build

# family → norms that fold, and how many parallel maps a graft merges
FOLDED = {
    "resnet": (8, 0),
    "regnet": (12, 0),
    "mobilenet_v2": (52, 0),
    "levit": (28, 0),
    "conformer": (1, 0),
    "detr": (8, 0),
    "dpt": (14, 0),
    "pp_lcnet_v3": (44, 25),
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """`family(name)` → its directory; built once."""
    root, built = tmp_path_factory.mktemp("families"), {}

    def make(name):
        if name not in built:
            built[name] = root / name
            build_batch_norms(name, built[name])
        return built[name]

    return make


@pytest.fixture(scope="module")
def made(family, tmp_path_factory):
    """`made(name, form)` → the folding, its proof, and the directory of the result."""
    root, done = tmp_path_factory.mktemp("results"), {}

    def make(name, form):
        if (name, form) not in done:
            source = open_checkpoint(family(name))
            folding = plan_folding(source, form=form)
            directory = root / f"{name}-{form}"
            directory.mkdir()
            write_weights(folding.operate(source)[0], directory, hashes=False)
            done[name, form] = folding, folding.prove(), directory
        return done[name, form]

    return make


def opened(folding, directory):
    (class_of,) = folding.forms.values()
    with quiet():
        return class_of(directory).from_pretrained(directory, output_loading_info=True)


@pytest.mark.parametrize("form", ["keep", "graft"])
@pytest.mark.parametrize("name", FOLDED)
def test_it_is_proved_in_float64_and_a_fold_left_out_shows(made, name, form):
    folding, proof, _ = made(name, form)
    folded, merged = FOLDED[name]
    assert max(proof.errors.values()) < 1e-11
    assert min(proof.controls.values()) > 1e-6
    assert len(folding.plan.sites) == folded
    assert sum(len(merge.others) for merge in folding.plan.merges) == merged * (form == "graft")
    norms = {n for n, m in folding.examination.twin.model.named_modules() if has_statistics(m)}
    assert {site.name for site in folding.found.sites} == norms
    assert {site.name for site in folding.plan.sites} | set(folding.plan.left) == norms


def has_statistics(module):
    return hasattr(module, "running_mean") and hasattr(module, "running_var")


@pytest.mark.parametrize("name", FOLDED)
def test_keep_has_the_source_s_names_and_its_norms_only_add(made, family, name):
    folding, _, directory = made(name, "keep")
    before, after = (load_file(d / "model.safetensors") for d in (family(name), directory))
    assert {n: (v.dtype, v.shape) for n, v in before.items()} == {
        n: (v.dtype, v.shape) for n, v in after.items()
    }
    config = [json.loads((d / "config.json").read_text()) for d in (family(name), directory)]
    assert config[0] == config[1]
    model, report = opened(folding, directory)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    names = {site.name for site in folding.plan.sites}
    for norm_name, norm in model.eval().named_modules():
        if norm_name in names:
            check_adds(norm)


def check_adds(norm):
    x = torch.randn(
        2, len(norm.running_mean), *[3] * (1 if isinstance(norm, nn.BatchNorm1d) else 2)
    )
    with torch.no_grad():
        shift = norm.bias.view(-1, *[1] * (x.dim() - 2))
        assert torch.equal(norm(x), x + shift)


@pytest.mark.parametrize("name", FOLDED)
def test_a_graft_has_no_norm_left_and_the_stock_class_refuses_it(made, name):
    folding, _, directory = made(name, "graft")
    model, report = opened(folding, directory)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    left = {n for n, module in model.named_modules() if has_statistics(module)}
    assert left == set(folding.plan.left)
    config = json.loads((directory / "config.json").read_text())
    assert config["model_type"].endswith("_foldedbn")
    with pytest.raises(Exception, match="opens only with trust_remote_code=True"):
        folding.examination.model_class.from_pretrained(directory)


def test_a_graft_opens_in_a_fresh_process_and_saves_again(made, tmp_path):
    _, _, directory = made("resnet", "graft")
    code = f"""
from transformers import AutoModel, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained({str(directory)!r}, trust_remote_code=True)
assert not [m for m in model.modules() if "Norm" in type(m).__name__]
model.save_pretrained({str(tmp_path / "again")!r})
again = AutoModel.from_pretrained({str(tmp_path / "again")!r}, trust_remote_code=True)
assert type(again).__name__ == "ResNetModel"
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_merged_graft_is_smaller_and_its_file_says_what_it_merged(made, family):
    _, _, directory = made("pp_lcnet_v3", "graft")
    sizes = [(d / "model.safetensors").stat().st_size for d in (family("pp_lcnet_v3"), directory)]
    assert sizes[1] < sizes[0] / 2
    text = (directory / "modeling_foldedbn.py").read_text()
    assert "class Silent" in text and "One convolution holds what parallel ones gave" in text


def test_the_modeling_file_is_tidy(made):
    for name in ("resnet", "pp_lcnet_v3"):
        file = made(name, "graft")[2] / "modeling_foldedbn.py"
        for command in (["format", "--check"], ["check", "--select", "E,F,I,W,B"]):
            ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100"]
            done = subprocess.run([*ruff, str(file)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "key", "value", "gone"),
    [
        ("dpt", "use_batch_norm_in_fusion_residual", False, 14),
        ("pp_lcnet_v3", "conv_symmetric_num", 1, 20),
    ],
)
def test_native_is_the_stock_class_with_a_key_turned(made, family, name, key, value, gone):
    folding, proof, directory = made(name, "native")
    assert max(proof.errors.values()) < 1e-11 and min(proof.controls.values()) > 1e-6
    assert json.loads((directory / "config.json").read_text())[key] == value
    model, report = opened(folding, directory)
    assert type(model) is folding.examination.model_class
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert len(folding.plan.gone) == gone


def test_native_is_refused_where_no_key_does_it(family):
    with pytest.raises(UnsupportedModelError, match="ResNetConfig has no key that takes") as error:
        plan_folding(open_checkpoint(family("resnet")), form="native")
    assert "--form keep" in error.value.hint


def test_a_fold_that_is_not_made_fails_the_proof(family, monkeypatch):
    folding = plan_folding(open_checkpoint(family("resnet")))
    honest = BatchNormFolding._steps
    first = folding.plan.sites[0].name
    monkeypatch.setattr(
        BatchNormFolding, "_steps", lambda self, plan, without: honest(self, plan, (first,))
    )
    with pytest.raises(VerificationError, match="stock form: logits differs from the source's"):
        folding.prove()


def test_the_command_writes_verified_files_and_papers(family, tmp_path):
    out = tmp_path / "out"
    document = normsurgery.fold_bn(family("dpt"), out, form="native", device="cpu").to_dict()
    assert document["verification"]["verdict"] == "pass"
    assert document["verification"]["native"]["outputs"]["predicted_depth"]["ratio"] <= 3
    found = document["batch_norms"]
    assert (found["folded"], found["left"]) == (14, 2)
    dead = [norm for norm in found["norms"] if norm["kind"] == "dead"]
    assert len(dead) == 2 and all(norm["reason"] for norm in dead)
    papers = json.loads((out / "surgery.json").read_text())
    (step,) = papers["recipe"]["steps"]
    assert step | {"surgery": "fold_bn", "form": "native", "dtype": None} == step
    card = (out / "README.md").read_text()
    assert "## BatchNorms" in card and "inference only" in card
    assert "trust_remote_code" not in card


def test_a_dry_run_writes_nothing(family, tmp_path):
    out = tmp_path / "out"
    document = normsurgery.fold_bn(family("resnet"), out, dry_run=True).to_dict()
    assert document["plan"]["contract"] == "exact" and document["plan"]["tensors"]["changed"] == 40
    assert not out.exists()


def test_a_narrow_source_is_warned_of_and_stays_identical_in_its_format(tmp_path):
    build_batch_norms("conformer", tmp_path / "source", dtype="bfloat16")
    folding = plan_folding(open_checkpoint(tmp_path / "source"))
    assert any("bfloat16" in note and "float32 master" in note for note in folding.notes)
    result, _ = folding.operate(open_checkpoint(tmp_path / "source"))
    (site,) = folding.plan.sites
    ((name, _),) = folding.names.on_disk(site.norm.running_var)
    assert set(result[name].load().tolist()) == {16384.0}


def test_a_cast_keeps_the_identity_whatever_the_source_is_stored_in(family, tmp_path):
    source = open_checkpoint(family("resnet"))
    wide, _ = cast(source, "F64")
    folding = replace(plan_folding(source, dtype="float16"), cast_first=False)
    result, receipts = folding.operate(wide)
    assert receipts[-1].surgery == "cast"
    variances = [t.load() for n, t in result.items() if n.endswith("running_var")]
    assert all(v.dtype is torch.float16 and v.eq(16384).all() for v in variances)


def test_a_model_without_a_batch_norm_is_refused(tmp_path):
    build("vit", tmp_path / "vit")
    with pytest.raises(UnsupportedModelError, match="it has no BatchNorm"):
        normsurgery.fold_bn(tmp_path / "vit", tmp_path / "out")


def test_a_model_whose_norms_all_stay_is_refused_with_the_reasons(tmp_path):
    config = transformers.HubertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32,
        conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, conv_pos_batch_norm=True, num_feat_extract_layers=2,
    )  # fmt: skip
    with quiet():
        transformers.HubertModel(config).save_pretrained(tmp_path / "hubert")
    with pytest.raises(UnsupportedModelError, match=r"none of its 1 BatchNorms folds: .*pad"):
        normsurgery.fold_bn(tmp_path / "hubert", tmp_path / "out")


def damaged(family, directory, change):
    """The tiny ResNet with its tensors changed."""
    directory.mkdir()
    tensors = load_file(family("resnet") / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_bytes((family("resnet") / "config.json").read_bytes())
    return directory


NORM = "resnet.embedder.embedder.normalization"


@pytest.mark.parametrize("value", [-2.0, float("nan")])
def test_a_variance_that_is_none_stops_the_run(family, tmp_path, value):
    source = damaged(
        family, tmp_path / "bad", lambda tensors: tensors[f"{NORM}.running_var"].fill_(value)
    )
    with pytest.raises(CheckpointError, match="running_var holds a value below"):
        normsurgery.fold_bn(source, tmp_path / "out", verify=False)
    assert not (tmp_path / "out").exists()


def test_a_statistic_that_is_missing_is_an_error(family, tmp_path):
    source = damaged(family, tmp_path / "bad", lambda t: t.pop(f"{NORM}.running_mean"))
    with pytest.raises(CheckpointError, match="running_mean of ResNetForImageClassification not"):
        normsurgery.fold_bn(source, tmp_path / "out")


class Picking(nn.Module):
    def forward(self, x):
        return x.topk(2)


def test_only_a_model_that_picks_by_score_may_be_certified_in_float64_alone(made):
    folding, _, _ = made("resnet", "keep")
    assert not selects(folding)
    picking = replace(
        folding.examination.twin, model=Picking(), inputs={"x": torch.randn(2, 5)}, shapes={}
    )
    assert selects(replace(folding, examination=replace(folding.examination, twin=picking)))


@pytest.fixture
def unsteady(made, family, tmp_path, monkeypatch):
    """`unsteady(form)` verifies a fold as if its model picked by score, and failed in float32."""

    def verify(form, **changes):
        folding, _, directory = made("conformer", form)
        monkeypatch.setattr("normsurgery.api.batchnorm_verify.selects", lambda folding: True)
        compare = importlib.import_module("normsurgery.verify.compare")
        monkeypatch.setattr(compare, "NOISE_RATIO", 1e-6)
        found = verify_folding(
            open_checkpoint(family("conformer")), replace(folding, **changes), directory,
            Writing(tmp_path / "out"), data=None, device="cpu", dtype=None, seed=0,
        )  # fmt: skip
        (form,) = folding.forms
        return found["verdict"], found[form]

    return verify


@pytest.mark.parametrize("form", ["keep", "graft"])
def test_such_a_model_is_held_to_the_float64_bound_on_its_real_weights(unsteady, form):
    verdict, figures = unsteady(form)
    assert verdict == "pass" and figures["dtype"] == "float64"
    assert figures["outputs"]["logits"]["ratio"] < 1e-9 == figures["outputs"]["logits"]["allowed"]
    assert any("the model picks by score" in note for note in figures["notes"])


def test_the_float64_bound_still_catches_a_fold_that_is_not_made(unsteady, made):
    plan = made("conformer", "keep")[0].plan
    (site,) = plan.sites
    other = replace(site, norm=replace(site.norm, eps=1e-3))
    verdict, figures = unsteady("keep", plan=replace(plan, sites=(other,)))
    assert verdict == "fail" and figures["outputs"]["logits"]["ratio"] > 1e-9


def test_inspect_says_which_forms_apply(family):
    rows = {
        row["name"]: row for row in normsurgery.inspect(family("resnet")).to_dict()["surgeries"]
    }
    assert rows["fold-bn"]["applies"] and rows["fold-bn"]["reason"] == "8 of 8 BatchNorms fold"
    assert rows["fold-bn --form graft"]["applies"]
    assert not rows["fold-bn --form native"]["applies"]
