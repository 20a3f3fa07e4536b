"""Schedules by name and from YAML."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from normsurgery.errors import UsageError
from normsurgery.train.removal.published import PUBLISHED
from normsurgery.train.removal.schedule import auto_schedule
from normsurgery.train.removal.schedule_file import load_schedule
from tests.train.removal.tools import paths

BUDGET: dict[str, Any] = {
    "parameters": 10**8,
    "tokens": 10**6,
    "tokens_per_step": 1000,
    "paths": paths(4),
}


def load(chosen):
    return load_schedule(chosen, **BUDGET)


def from_file(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return load(file)


def test_names():
    assert load("gpt2-xl") is PUBLISHED["gpt2-xl"]
    assert load("auto") == auto_schedule(**BUDGET)
    with pytest.raises(UsageError, match="no schedule 'gpt3'") as raised:
        load("gpt3")
    assert "gpt2-large" in raised.value.hint


def test_what_a_file_does_not_say_is_as_in_auto_for_its_steps(tmp_path):
    found = from_file(tmp_path, "steps: 200\nauxiliary: 0\nkl: [0, 1]\norder: sensitivity\n")
    auto = auto_schedule(**{**BUDGET, "tokens": 200_000})
    assert found == replace(auto, name="mine", auxiliary=0.0, kl=(0.0, 1.0), order="sensitivity")
    assert from_file(tmp_path, "") == replace(load("auto"), name="mine")


def test_a_rate_without_a_point_is_a_number_and_keeps_the_share_of_the_lowest(tmp_path):
    found, auto = from_file(tmp_path, "learning_rate: 6e-5\nce: 0.5\n"), load("auto")
    assert found.learning_rate == 6e-5 and found.ce == (0.5, 0.5)
    share = auto.min_learning_rate / auto.learning_rate
    assert found.min_learning_rate == pytest.approx(share * 6e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_schedule_written_is_the_schedule_read(tmp_path, name):
    assert from_file(tmp_path, yaml.safe_dump(PUBLISHED[name].to_dict())) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gap_x: 2\nsteps: 3\n", "unknown key gap_x"),
        ("steps: 3.5\n", "steps is 3.5, not a whole number"),
        ("steps: true\n", "steps is True, not a whole number"),
        ("steps: 0\n", "steps 0 is not 1 or more"),
        ("steps: null\n", "steps is None"),
        ("gap_v: slow\n", "gap_v is 'slow', not a number"),
        ("gap_v: false\n", "gap_v is False"),
        ("kl: [1, 2, 3]\n", r"kl is \[1, 2, 3\], not a number, or"),
        ("order: 3\n", "order is 3, not a word"),
        ("order: size\n", "order size is not one of"),
        ("learning_rate: [1]\n", "learning_rate"),
        ("- steps\n", "holds no keys"),
        ("steps: [\n", "mine.yaml is not YAML"),
    ],
)
def test_a_file_that_is_wrong_names_the_key(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        from_file(tmp_path, text)


def test_tokens_a_step_may_be_any(tmp_path):
    assert from_file(tmp_path, "tokens_per_step: null\n").tokens_per_step is None
