"""`eval` on a tiny language model: perplexity without the harness, tasks with the real one."""

import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers

import normsurgery
from normsurgery.calibrate.text.sources import load_rows
from normsurgery.cli import main
from normsurgery.errors import UsageError
from tests.cli.invoke import ROOT
from tests.families import build

MODEL = ROOT / "tests" / "data" / "tiny-gpt2-6x96"
TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 12

CHOICE = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {validation: DATA}, cache_dir: CACHE}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [" fox", " dog", " cat"]
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITING = """
task: tiny_writing
dataset_path: json
dataset_kwargs: {data_files: {validation: DATA}, cache_dir: CACHE}
validation_split: validation
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{word}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    """The same model with noise on its blocks."""
    directory = tmp_path_factory.mktemp("eval") / "worse"
    shutil.copytree(MODEL, directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def harness(monkeypatch):
    """The real one: `make test` puts it beside the environment, into `.venv/lm-eval`."""
    beside = Path(sys.prefix, "lm-eval")
    if beside.is_dir():
        monkeypatch.setattr(sys, "path", [*sys.path, str(beside)])  # after what is there already
    elif importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not here; `make test` brings it along")


def test_perplexity_is_that_of_the_text(worse, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    found = normsurgery.eval(MODEL, worse, data=str(file), max_length=32, device="cpu").to_dict()[
        "perplexity"
    ]
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL).eval()
    rows = load_rows(MODEL, data=str(file), tokens=10**4, max_length=32)
    assert found["source"]["sha256"] == rows.about["sha256"] and rows.tokens > 300
    total = 0.0
    for row, mask in zip(rows.ids, rows.mask, strict=True):
        ids = row[mask]
        with torch.inference_mode():
            logs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        total -= sum(logs[i - 1, ids[i]].item() for i in range(1, len(ids)))
    mean = total / found["reference"]["tokens"]
    assert found["reference"]["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert found["difference"]["value"] > 0 and found["difference"]["within_noise"] is False


def test_the_command_shows_a_model_no_worse_than_itself(capsys):
    given = ["eval", str(MODEL), str(MODEL), "--tokens", "300", "--max-length", "64"]
    assert main([*given, "--device", "cpu"]) == 0
    assert "+0.00000 ± 0.00000 nats per token within noise" in capsys.readouterr().out


def test_a_model_that_writes_no_text_is_refused(tmp_path):
    build("bert", tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, tmp_path)
    with pytest.raises(UsageError):
        normsurgery.eval(tmp_path, tmp_path, tokens=50, device="cpu")


@pytest.mark.filterwarnings("ignore")
def test_the_harness_s_tasks_stand_side_by_side(harness, worse, tmp_path):
    questions = [
        {"question": f"{word} quick brown", "answer": i % 3, "word": "fox"}
        for i, word in enumerate(["The", "A", "One", "My", "Your", "That"])
    ]
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, questions)))
    for name, text in (("choice", CHOICE), ("writing", WRITING)):
        filled = text.replace("DATA", str(data)).replace("CACHE", str(tmp_path / "cache"))
        (tmp_path / f"{name}.yaml").write_text(filled)
    document = normsurgery.eval(
        MODEL, worse, tasks=("tiny_choice", "tiny_writing"), include_path=tmp_path, limit=5,
        batch_size=2, device="cpu",
    ).to_dict()  # fmt: skip
    assert document["perplexity"] is None and document["settings"]["lm_eval"]
    entries = {entry["task"]: entry for entry in document["tasks"]}
    assert set(entries) == {"tiny_choice", "tiny_writing"}
    choice = entries["tiny_choice"]
    assert choice["paired"] and choice["samples"] == 5 and choice["metric"] == "acc"
    assert choice["reference"]["value"] == picked(MODEL, questions[:5])
    assert choice["candidate"]["value"] == picked(worse, questions[:5])


def picked(directory, questions):
    """The share of questions whose answer has the highest log-likelihood, by the model itself."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    right = 0
    for question in questions:
        scores = []
        for choice in (" fox", " dog", " cat"):
            context = tokenizer(question["question"])["input_ids"]
            ids = torch.tensor([*context, *tokenizer(choice)["input_ids"]])
            with torch.inference_mode():
                logs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            ends = range(len(context), len(ids))
            scores.append(sum(logs[i - 1, ids[i]].item() for i in ends))
        right += max(range(3), key=scores.__getitem__) == question["answer"]
    return right / len(questions)
