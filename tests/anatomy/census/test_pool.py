"""A crash or a hang costs one item, and what it had given until then is kept."""

from __future__ import annotations

import os
import signal

import pytest

from normsurgery.anatomy.census.pool import run_each


def _work(item):
    yield f"{item} begun"
    if item == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    while item == "hang":
        pass
    yield f"{item} done"


def _silent(item):
    return []


def test_every_item_has_an_outcome():
    outcomes = list(run_each(_work, ["good", "crash", "hang", "fine"], jobs=2, timeout=1.0))
    found = {one.item: (one.result, one.trouble) for one in outcomes}
    assert found["good"] == ("good done", "")
    assert found["fine"] == ("fine done", "")
    assert found["crash"] == ("crash begun", "its process ended with code -9")
    assert found["hang"] == ("hang begun", "took longer than 1 s")


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_function_may_give_nothing(jobs):
    (outcome,) = run_each(_silent, ["one"], jobs=jobs, timeout=10)
    assert (outcome.result, outcome.trouble) == (None, "")
