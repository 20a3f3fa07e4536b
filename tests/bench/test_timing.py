"""Rounds and their order, and what a clock of our own says of runs."""

import itertools

import pytest
import torch

from normsurgery.bench.measures import cell_figures
from normsurgery.bench.subject import Cell
from normsurgery.bench.timing import Run, forward_runner, interleaved, text_runner
from tests.families import build

CPU = torch.device("cpu")


class Ticks:
    """A clock that moves by 1, 2, 3 … seconds from one reading to the next."""

    def __init__(self):
        self._steps = itertools.accumulate(itertools.count(1))

    def __call__(self):
        return float(next(self._steps))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return build("gpt2", tmp_path_factory.mktemp("timing")).eval()


def test_rounds_take_turns_and_the_first_are_not_kept():
    order: list[str] = []
    done: list[int] = []

    def runner(name):
        def run():
            order.append(name)
            return Run(float(len(order)))

        return run

    def advance(n, note=""):
        done.append(n)

    runners = {name: runner(name) for name in "ab"}
    found = interleaved(runners, repeats=2, warmup=1, advance=advance)
    assert "".join(order) == "abbaab" and sum(done) == 6
    assert {k: [run.forward for run in v] for k, v in found.items()} == {
        "a": [4.0, 5.0], "b": [3.0, 6.0],
    }  # fmt: skip


def test_a_forward_pass_is_timed_from_its_start_to_its_end(gpt2):
    run = forward_runner(gpt2, {"input_ids": torch.ones(1, 4, dtype=torch.long)},
                         device=CPU, clock=Ticks())()  # fmt: skip
    assert run == Run(2.0)


def test_a_text_is_timed_token_by_token_and_its_end_token_ends_nothing(gpt2):
    ids = torch.ones(2, 4, dtype=torch.long)
    own = gpt2.generation_config
    run = text_runner(
        gpt2, {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        new_tokens=4, device=CPU, clock=Ticks(),
    )()  # fmt: skip
    assert run == Run(2.0, (3.0, 4.0, 5.0))
    assert gpt2.generation_config is own


def test_a_cells_figures_are_those_of_its_runs():
    slow, fast = Run(2.0, (1.0, 3.0)), Run(1.0, (1.0, 1.0))
    found = cell_figures(
        Cell(batch=4, length=8, new_tokens=3), {"a": [slow] * 6, "b": [fast] * 6},
        mode="eager", seed=0,
    )  # fmt: skip
    prefill, decode = found["measures"]["prefill"], found["measures"]["decode"]
    assert prefill["per_second"] == [16.0, 32.0] and decode["per_second"] == [2.0, 4.0]
    for measure in (prefill, decode):
        assert measure["speedup"][0] is None
        assert measure["speedup"][1]["value"] == pytest.approx(2.0)
    assert decode["latency"][0]["p50"] == 1.0 and decode["latency"][0]["p99"] == 3.0
    assert decode["latency"][0]["count"] == 12 and prefill["latency"][1]["count"] == 6


def test_one_pass_over_samples_is_counted_in_samples():
    found = cell_figures(Cell(4, None), {"a": [Run(2.0)]}, mode="eager", seed=0)
    assert found["measures"]["forward"]["per_second"] == [2.0]
    assert found["measures"]["forward"]["unit"] == "samples"
