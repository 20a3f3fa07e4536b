"""The modeling file: readable, self-contained, and the same function in a fresh process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file

import normsurgery
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.inputs import example_inputs
from normsurgery.anatomy.runtime import quiet

FAMILIES = ("gpt2", "gpt_neox", "olmo", "nemotron", "bloom", "vit", "whisper", "clip")


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """`converted(family, **options)` → the output directory, made once a module."""
    made = {}

    def make(family, **options):
        key = (family, *sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("converted") / family
            stock = {} if "to" in options else {"target": "stock"}
            normsurgery.convert(tiny(family), made[key], verify=False, **stock | options)
        return made[key]

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_it_imports_torch_and_transformers_only_and_is_clean(converted, family):
    file = converted(family) / "modeling_rmsnorm.py"
    tree = ast.parse(file.read_text())
    imported = {
        ((isinstance(node, ast.ImportFrom) and node.module) or node.names[0].name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported <= {"re", "torch", "transformers"}
    assert len(file.read_text().splitlines()) < 150
    for command in (["format", "--check"], ["check", "--select", "E,F,I,W,B"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100"]
        done = subprocess.run([*ruff, str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


FRESH = """
import sys, torch, transformers
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
directory, auto, trust, inputs, out = sys.argv[1:]
model, report = getattr(transformers, auto).from_pretrained(
    directory, trust_remote_code=trust == "True", output_loading_info=True)
problems = [k for k in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[k]]
assert not problems, report
kinds = {type(module).__name__ for module in model.modules()}
layer_norms = sorted(kind for kind in kinds if "Norm" in kind)
with torch.no_grad():
    result = model(**torch.load(inputs))
torch.save({"norms": layer_norms, "class": type(model).__module__,
            "outputs": {k: v for k, v in result.items() if isinstance(v, torch.Tensor)}}, out)
"""


def _fresh(directory, auto, trust, inputs, out):
    command = [sys.executable, "-c", FRESH, str(directory), auto, str(trust), str(inputs), str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return torch.load(out)


@pytest.mark.slow
def test_one_checkpoint_two_ways_in(converted, tiny, tmp_path):
    with quiet():
        source = transformers.GPT2LMHeadModel.from_pretrained(tiny("gpt2")).eval()
    inputs = example_inputs(source, batch=2, length=9, seed=5)
    torch.save(inputs, tmp_path / "inputs.pt")
    with torch.no_grad():
        expected = source(**inputs).logits
    auto = "AutoModelForCausalLM"
    stock = _fresh(converted("gpt2"), auto, False, tmp_path / "inputs.pt", tmp_path / "stock.pt")
    graft = _fresh(converted("gpt2"), auto, True, tmp_path / "inputs.pt", tmp_path / "graft.pt")
    assert stock["norms"] == ["LayerNorm"]
    assert stock["class"].startswith("transformers.models")
    assert graft["norms"] == ["RMSNorm"]
    assert graft["class"].startswith("transformers_modules")
    for form in (stock, graft):
        error = (form["outputs"]["logits"] - expected).abs().max() / expected.std()
        assert error < 1e-4


@pytest.mark.parametrize(
    ("family", "auto"),
    [("gpt2", "AutoModel"), ("gpt2", "AutoModelForTokenClassification"), ("vit", "AutoModel"),
     ("whisper", "AutoModel"), ("gpt_neox", "AutoModelForCausalLM")],
)  # fmt: skip
def test_every_auto_class_opens_it_with_the_same_outputs(converted, tiny, family, auto):
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    directory = converted(family, dtype="float64")
    reference = json.loads((directory / "config.json").read_text())["auto_map"][auto]
    with quiet():
        graft = get_class_from_dynamic_module(reference, str(directory))
        stock_class = getattr(transformers, reference.split(".")[1])
        theirs = stock_class.from_pretrained(tiny(family), dtype=torch.float64).eval()
        ours = graft.from_pretrained(directory, dtype=torch.float64).eval()
    heads = {n: p for n, p in theirs.named_parameters() if n.startswith(("score", "classifier"))}
    for name, parameter in heads.items():  # not in the checkpoint: a new head, as in fine-tuning
        ours.get_parameter(name).data.copy_(parameter.data)
    inputs = example_inputs(theirs, batch=1, length=9, seed=5)
    with torch.no_grad(), Float64():
        expected, found = theirs(**inputs)[0], ours(**inputs)[0]
    assert (found - expected).abs().max() <= 1e-9 * expected.std()


def test_it_saves_and_reloads(converted, tmp_path):
    from transformers import AutoModelForCausalLM

    directory = converted("gpt2")
    again = tmp_path / "again"
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).eval()
        model.save_pretrained(again)
        reloaded = AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True).eval()
    assert (again / "modeling_rmsnorm.py").is_file()
    ids = torch.arange(7)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, reloaded(ids).logits)
    ours, theirs = (
        load_file(directory / "model.safetensors"),
        load_file(again / "model.safetensors"),
    )
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("family", "options"), [("gpt2", {"to": "crmsnorm"})])
def test_an_exclusive_graft_refuses_the_stock_class(converted, family, options):
    directory = converted(family, **options)
    architecture = json.loads((directory / "config.json").read_text())["architectures"][0]
    with pytest.raises(Exception, match="opens only with trust_remote_code=True"):
        getattr(transformers, architecture).from_pretrained(directory)
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options"), [("bloom", {"target": "graft"}), ("gpt2", {"to": "crmsnorm"})]
)
def test_an_exclusive_graft_opens_with_trust_saves_and_reloads(
    converted, tiny, tmp_path, family, options
):
    directory = converted(family, **options)
    code = f"""
import torch, transformers
transformers.utils.logging.set_verbosity_error()
A = transformers.AutoModelForCausalLM
source = A.from_pretrained({str(tiny(family))!r}).eval()
ours = A.from_pretrained({str(directory)!r}, trust_remote_code=True).eval()
ours.save_pretrained({str(tmp_path / "again")!r})
again = A.from_pretrained({str(tmp_path / "again")!r}, trust_remote_code=True).eval()
ids = torch.arange(8)[None]
with torch.no_grad():
    a, b, c = source(ids).logits, ours(ids).logits, again(ids).logits
assert torch.equal(b, c)
assert (a - b).abs().max() < 1e-3 * a.std(), (a - b).abs().max()
g = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
assert torch.equal(source.generate(ids, **g), ours.generate(ids, **g))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
