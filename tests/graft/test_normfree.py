"""The norm-free modeling file: readable, and a class that the stock one does not stand for."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file

from normsurgery.anatomy.runtime import quiet
from tests.surgery.norm_free_models import opened, subject, written

SHOWN = ("gpt2", "gpt2_mlp", "gpt_neox", "qwen3_inner", "mixtral", "phimoe", "olmo2", "vit")


@pytest.fixture(scope="module")
def grafts(tmp_path_factory):
    """`grafts(name)` → (Subject, plan, output directory), made once a module."""
    made = {}

    def make(name):
        if name not in made:
            root = tmp_path_factory.mktemp("graft")
            one = subject(name, root / "source", dtype="float32")
            plan = one.plan("graft")
            made[name] = one, plan, written(plan.operate(one.checkpoint)[0], root / name)
        return made[name]

    return make


@pytest.mark.parametrize("name", SHOWN)
def test_the_file_is_clean_and_imports_torch_and_transformers_only(grafts, name):
    file = grafts(name)[2] / "modeling_normfree.py"
    text = file.read_text()
    imported = {
        ((isinstance(node, ast.ImportFrom) and node.module) or node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported <= {"json", "re", "torch", "transformers"}
    assert len(text.splitlines()) < 150
    assert "RMSNorm where" not in text and "centred" not in text
    for command in (["format", "--check"], ["check", "--select", "E,F,I,W,B"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100"]
        done = subprocess.run([*ruff, str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_says_what_it_is(grafts):
    text = (grafts("gpt2")[2] / "modeling_normfree.py").read_text()
    assert text.startswith('"""GPT2LMHeadModel with norms that do not divide.')
    assert "the linears that read it hold it" in text
    assert "The weights fit this class only; the stock class refuses them." in text
    assert "class Affine" not in text  # nothing stays
    assert (
        "it stays in its place as one"
        in (grafts("qwen3_inner")[2] / "modeling_normfree.py").read_text()
    )


@pytest.mark.parametrize("name", ["gpt2", "llama_tied", "mixtral", "qwen3_inner"])
def test_no_norm_and_no_parameter_of_one_is_left(grafts, name):
    one, plan, directory = grafts(name)
    model = opened(plan.forms["graft"](directory), directory)
    kinds = {type(module).__name__ for module in model.modules()}
    assert not [kind for kind in kinds if "Norm" in kind]
    tensors = set(load_file(directory / "model.safetensors"))
    assert tensors == set(model.state_dict())
    stay = {path.site.name for path in one.paths if path.kind == "inner"}
    gone = {path.site.name for path in one.paths} - stay
    assert not [name for name in tensors if name.rpartition(".")[0] in gone]


def test_norms_that_are_not_removed_stay_what_they_are(grafts):
    _, plan, directory = grafts("gpt2_mlp")
    assert plan.form == "partial"
    model = opened(plan.forms["graft"](directory), directory)
    assert {type(block.ln_1) for block in model.transformer.h} == {torch.nn.LayerNorm}
    assert {type(block.ln_2) for block in model.transformer.h} == {torch.nn.Identity}
    assert model.config.tie_word_embeddings  # nothing that the head reads has changed


@pytest.mark.parametrize("name", ["gpt2", "gpt2_mlp", "llama_tied", "mixtral", "vit"])
def test_the_stock_class_refuses_it(grafts, name):
    one, _, directory = grafts(name)
    config = json.loads((directory / "config.json").read_text())
    assert config["model_type"].endswith("_normfree")
    with pytest.raises(Exception, match="opens only with trust_remote_code=True"):
        type(one.model).from_pretrained(directory)
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False)


@pytest.mark.parametrize(("name", "base"), [("gpt2", "GPT2Model"), ("vit", "ViTModel")])
def test_classes_that_would_compute_something_else_are_not_offered(grafts, name, base):
    _, plan, directory = grafts(name)
    config = json.loads((directory / "config.json").read_text())
    assert f"modeling_normfree.{base}" not in config["auto_map"].values()
    assert any(note.startswith(f"{base} is not offered: ") for note in plan.notes)


def test_a_class_that_computes_the_same_is_offered(grafts):
    _, plan, directory = grafts("gpt2_mlp")  # its final norm is still there
    config = json.loads((directory / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_normfree.GPT2Model"
    assert plan.graft is not None and not plan.graft.refused


FRESH = """
import sys, torch, transformers
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
A = transformers.AutoModelForCausalLM
directory, again, expected = sys.argv[1:]
ids = torch.arange(3, 12)[None]
options = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
texts, logits = [], []
for attention in ("sdpa", "eager"):
    model, report = A.from_pretrained(directory, trust_remote_code=True,
        attn_implementation=attention, output_loading_info=True)
    assert not any(report.values()), report
    model.eval()
    with torch.no_grad():
        logits.append(model(ids).logits)
        texts += [model.generate(ids, use_cache=cache, **options) for cache in (True, False)]
assert all(torch.equal(texts[0], text) for text in texts), texts
saved = torch.load(expected)
for found in logits:
    assert (found - saved).abs().max() < 1e-4 * saved.std(), (found - saved).abs().max()
model.save_pretrained(again)
reloaded, report = A.from_pretrained(again, trust_remote_code=True, attn_implementation="eager",
    output_loading_info=True)
assert not any(report.values()), report
with torch.no_grad():
    assert torch.equal(model(ids).logits, reloaded.eval()(ids).logits)
# left padding gives what no padding gives
pads = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
mask = (torch.arange(pads.shape[1]) >= 3).long()[None]
position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
with torch.no_grad():
    padded = model(pads, attention_mask=mask, position_ids=position_ids).logits[:, 3:]
assert (padded - logits[1]).abs().max() < 1e-4 * saved.std()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2_mlp", "mixtral"])
def test_a_fresh_process_opens_generates_saves_and_reopens_it(grafts, tmp_path, name):
    one, _, directory = grafts(name)
    ids = torch.arange(3, 12)[None]
    expected = one.expected({"input_ids": ids})["logits"]
    torch.save(expected.float(), tmp_path / "expected.pt")
    command = [sys.executable, "-c", FRESH, str(directory), str(tmp_path / "again")]
    done = subprocess.run(
        [*command, str(tmp_path / "expected.pt")], capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "again" / "modeling_normfree.py").is_file()
    with pytest.raises(Exception, match="opens only with trust_remote_code=True"), quiet():
        type(one.model).from_pretrained(tmp_path / "again")
