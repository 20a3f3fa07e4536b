"""A fixed sample of the census: what converts whole, in part, and what is refused, with why."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from normsurgery.anatomy.census import __main__ as command
from normsurgery.anatomy.census import trial
from normsurgery.anatomy.census.architectures import classes_of, families, is_tower
from normsurgery.anatomy.proof import EXACT_BOUND
from normsurgery.checkpoint import write_weights

# Family → verdict, class, and what the reason or the part must say.
SAMPLE = {
    "gpt2": ("proved", "GPT2LMHeadModel", ""),
    "moonshine": ("proved", "MoonshineForConditionalGeneration", ""),  # waveforms
    "vivit": ("proved", "VivitForVideoClassification", ""),  # videos
    "decision_transformer": ("proved", "DecisionTransformerGPT2Model", ""),
    "kosmos2": ("proved", "Kosmos2ForConditionalGeneration", ""),  # text with pictures
    "modernvbert": ("proved", "ModernVBertForMaskedLM", ""),  # placeholders, hyperplanes
    "hubert": ("proved", "HubertForCTC", ""),  # read raw before the first block
    "git": ("part", "GitForCausalLM", "image_encoder"),
    "bert": ("refused", "BertLMHeadModel", "post-LN"),
    "convnext": ("refused", "ConvNextForImageClassification", "reads the stream without a norm"),
    "llama": ("no LayerNorm", "LlamaForCausalLM", "RMSNorm already"),
}


RECORD = Path(__file__).parents[2] / "data" / "census.csv"  # what docs/models.md counts


def test_the_record_that_the_docs_count_agrees_with_the_sample():
    with RECORD.open(encoding="utf-8", newline="") as file:
        recorded = {row["family"]: row for row in csv.DictReader(file)}
    for family, (verdict, architecture, _) in SAMPLE.items():
        if family in recorded:  # those without a LayerNorm in their code are not
            found = recorded[family]
            assert (found["verdict"], found["architecture"]) == (verdict, architecture)
    assert not [row for row in recorded.values() if row["verdict"] == "WRONG"]
    counts = Counter(row["verdict"] for row in recorded.values())
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    words = {"proved, the whole": "proved", "proved in part": "part", "refused": "refused"}
    for said, verdict in words.items():
        assert re.search(rf"^\| {said}.* \| {counts[verdict]} \|$", page, re.MULTILINE)


def _last(family):
    *_, row = trial.try_family(family)
    return row


@pytest.mark.parametrize("family", SAMPLE)
def test_a_family_gets_its_verdict(family):
    verdict, architecture, words = SAMPLE[family]
    row = _last(family)
    assert (row.verdict, row.architecture) == (verdict, architecture), row
    assert words in f"{row.part} {row.reason}"
    if verdict in ("proved", "part"):
        assert row.contract == "exact"
        assert row.error is not None
        assert row.error <= EXACT_BOUND
    else:
        assert row.error is None


def test_a_wrong_result_is_called_wrong(monkeypatch):
    """The second witness: the model's own files, other values than the twin's."""
    honest = write_weights

    def spoilt(result, directory, **options):
        name = "transformer.h.0.mlp.c_fc.weight"
        wrong = result.override({name: result[name].map(lambda weight: weight * 1.01)})
        return honest(wrong, directory, **options)

    monkeypatch.setattr(trial, "write_weights", spoilt)
    row = _last("gpt2")
    assert row.verdict == "WRONG"
    assert row.error is not None
    assert row.error > 1e-4


def test_whole_models_come_before_towers():
    order = classes_of("clip")
    assert "CLIPModel" in [model.__name__ for model in order[:2]]
    assert [is_tower(model) for model in order] == sorted(map(is_tower, order))


def test_families_without_a_layer_norm_are_not_tried():
    named, shipped = families()
    assert {"gpt2", "bloom", "falcon", "clip", "whisper", "cohere"} <= set(named)
    assert not {"llama", "mistral"} & set(named)
    assert len(named) < shipped


def test_the_command_prints_a_table_and_writes_csv(monkeypatch, tmp_path, capsys):
    def three(family):
        row = trial.Row(family, "proved", "Some", "exact", "stock", error=1e-15)
        yield dataclasses.replace(row, family=family)
        while family == "slow":
            pass

    monkeypatch.setattr(command, "try_family", three)
    file = tmp_path / "census.csv"
    threads = torch.get_num_threads()
    monkeypatch.setattr(
        "sys.argv",
        ["census", "b", "a", "slow", "--csv", str(file), "--jobs", "2", "--timeout", "1"],
    )
    command.main()
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "proved" in printed
    assert "transformers" in printed
    with file.open(encoding="utf-8", newline="") as rows:
        assert [row["family"] for row in csv.DictReader(rows)] == ["a", "b", "slow"]
