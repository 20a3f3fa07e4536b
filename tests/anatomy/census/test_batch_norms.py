"""The BatchNorm census: its record, and a few cheap rows of each kind made anew."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from normsurgery.anatomy.census import batch_norm_trial as trial
from normsurgery.anatomy.census.batch_norms import CONFIGURATIONS, NOT_TRIED, families_in_code
from normsurgery.anatomy.proof import EXACT_BOUND
from normsurgery.checkpoint import write_weights

RECORD = Path(__file__).parents[2] / "data" / "census-batchnorm.csv"
COUNTS = ("norms", "producer", "consumer", "branch", "stays", "dead", "merges")
SAMPLE = (
    "levit/LevitForImageClassificationWithTeacher",  # consumers
    "sam3_lite_text/Sam3LiteTextTextModel",  # branches, and convolutions that are one
    "hubert/HubertForCTC (batch norm)",  # none folds
    "groupvit/GroupViTModel",  # linears
)


@pytest.fixture(scope="module")
def recorded():
    with RECORD.open(encoding="utf-8", newline="") as file:
        return {row["configuration"]: row for row in csv.DictReader(file)}


def named(name):
    return next(c for c in CONFIGURATIONS if c.name == name)


def last(name):
    *_, row = trial.try_configuration(named(name))
    return row


def test_no_family_with_the_word_in_its_code_is_missing_from_the_table():
    tried = {configuration.family for configuration in CONFIGURATIONS}
    assert families_in_code() - tried == set(NOT_TRIED)
    assert len({configuration.name for configuration in CONFIGURATIONS}) == len(CONFIGURATIONS)


def test_the_record_is_of_this_table_and_nothing_in_it_is_wrong(recorded):
    assert set(recorded) == {configuration.name for configuration in CONFIGURATIONS}
    assert {row["verdict"] for row in recorded.values()} == {"folded", "none folds"}
    for row in recorded.values():
        counts = {key: int(row[key]) for key in COUNTS}
        folds = counts["producer"] + counts["consumer"] + counts["branch"]
        assert counts["norms"] == folds + counts["stays"] > 0
        if folds:
            assert float(row["error"]) <= EXACT_BOUND
            assert float(row["control"]) > 1e3 * EXACT_BOUND
        assert bool(counts["stays"] + counts["dead"]) == bool(row["reason"])
    folded = sum(int(row[key]) for row in recorded.values() for key in COUNTS[1:4])
    assert folded >= 4250


@pytest.mark.parametrize("name", SAMPLE)
def test_a_row_of_the_record_is_made_anew(name, recorded):
    row = last(name)
    assert (row.verdict, row.reason) == (recorded[name]["verdict"], recorded[name]["reason"])
    assert [getattr(row, key) for key in COUNTS] == [int(recorded[name][key]) for key in COUNTS]
    if row.folds:
        assert row.error <= EXACT_BOUND
        assert row.control > 1e-3
    else:
        assert (row.error, row.control) == (None, None)


def test_a_wrong_result_is_called_wrong(monkeypatch):
    def spoilt(result, directory, **options):
        name = next(name for name in result if name.endswith("conv.weight"))
        wrong = result.override({name: result[name].map(lambda weight: weight * 1.01)})
        return write_weights(wrong, directory, **options)

    monkeypatch.setattr(trial, "write_weights", spoilt)
    row = last("sam3_lite_text/Sam3LiteTextTextModel")
    assert (row.verdict, row.error > EXACT_BOUND) == (trial.WRONG, True)


def test_a_result_that_no_output_shows_is_not_called_folded(monkeypatch):
    monkeypatch.setattr(trial, "CONTROL_FLOOR", math.inf)
    row = last("groupvit/GroupViTModel")
    assert row.verdict == trial.FAILED
    assert "no output shows" in row.reason


def test_what_cannot_be_built_says_so(monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no such thing")

    monkeypatch.setattr(trial, "build_twin", refuse)
    row = last("groupvit/GroupViTModel")
    assert (row.verdict, row.reason) == (trial.UNTRIED, "ValueError: no such thing")
