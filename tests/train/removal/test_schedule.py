"""Published schedules to the number, and what `auto` makes of a size and a budget."""

from dataclasses import replace

import pytest

from normsurgery.errors import UsageError
from normsurgery.train.removal.events import events
from normsurgery.train.removal.published import PUBLISHED
from normsurgery.train.removal.schedule import auto_schedule
from tests.train.removal.tools import paths

SIZES = {"gpt2": 124e6, "gpt2-medium": 355e6, "gpt2-large": 774e6, "gpt2-xl": 1558e6}


def auto(steps=1000, blocks=6, parameters=10**6):
    return auto_schedule(
        parameters=parameters, tokens=steps * 2048, tokens_per_step=2048, paths=paths(blocks)
    )


@pytest.mark.parametrize(
    ("name", "blocks", "firsts", "final", "end", "first"),
    [
        ("gpt2", 12, (20, 44, 68), 104, 106, 116),
        ("gpt2-medium", 24, (20, 68, 116), 188, 190, 200),
        ("gpt2-large", 36, (30, 174, 318), 534, 536, 546),
        ("gpt2-xl", 48, (50, 242, 434), 722, 724, 734),
    ],
)
def test_a_published_schedule_removes_at_the_published_steps(
    name, blocks, firsts, final, end, first
):
    at = {e.paths[0]: e.step for e in events(PUBLISHED[name], paths(blocks))}
    assert tuple(at[f"{kind}0"] for kind in ("mlp", "qk", "v")) == firsts
    assert (at["final"], at["end"], at["first"]) == (final, end, first)
    gap = PUBLISHED[name].gap_v
    assert at["v1"] - at["v0"] == gap == final - at[f"v{blocks - 1}"]


@pytest.mark.parametrize(
    ("name", "steps", "horizon", "rates", "auxiliary"),
    [
        ("gpt2", 300, 300, (6e-4, 3e-4), 0.1),
        ("gpt2-medium", 500, 500, (6e-4, 3e-4), 0.1),
        ("gpt2-large", 600, 1200, (3e-4, 4e-5), 0.03),
        ("gpt2-xl", 800, 1200, (1e-4, 2e-5), 0.01),
    ],
)
def test_a_published_schedule_trains_as_published(name, steps, horizon, rates, auxiliary):
    one = PUBLISHED[name]
    assert (one.steps, one.horizon, one.tokens_per_step) == (steps, horizon, 2**19)
    assert (one.learning_rate, one.min_learning_rate) == rates
    assert (one.auxiliary, one.decay, one.weight_decay, one.clip) == (auxiliary, 0.9, 0.01, 1.0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_auto_has_the_published_rates_at_the_published_sizes(name):
    ours, theirs = auto(parameters=int(SIZES[name])), PUBLISHED[name]
    assert ours.learning_rate == pytest.approx(theirs.learning_rate)
    assert ours.min_learning_rate == pytest.approx(theirs.min_learning_rate)
    assert ours.auxiliary == pytest.approx(theirs.auxiliary)


def test_rates_fall_with_size_between_and_beyond_the_published_ones():
    sizes = [10**5, 10**7, 4 * 10**8, 6 * 10**8, 10**9, 3 * 10**9, 10**10]
    rates = [auto(parameters=size).learning_rate for size in sizes]
    assert rates == sorted(rates, reverse=True) and len(set(rates[2:])) == 5


@pytest.mark.parametrize("steps", [100, 1464, 20_000])
@pytest.mark.parametrize("blocks", [2, 6, 48])
def test_auto_times_are_shares_of_the_run(steps, blocks):
    planned = events(auto(steps, blocks), paths(blocks))
    at = {name: event.step / steps for event in planned for name in event.paths}
    assert at["mlp0"] == pytest.approx(0.03, abs=1.1 / steps)
    assert at["final"] == pytest.approx(0.55, abs=1.1 / steps)
    assert at["end"] == pytest.approx(0.57, abs=1.1 / steps)
    assert at["first"] == pytest.approx(0.62, abs=1.1 / steps)
    assert at[f"v{blocks - 1}"] < at["final"] or steps == 100


@pytest.mark.parametrize("steps", range(1, 12))
def test_auto_fits_into_the_shortest_runs(steps):
    planned = events(auto(steps), paths(6))
    assert sum(len(event.paths) for event in planned) == 19 + 2


def test_a_budget_below_one_step_is_refused():
    with pytest.raises(UsageError, match="less than one step"):
        auto_schedule(parameters=1, tokens=100, tokens_per_step=101, paths=paths(1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps 0 is not 1 or more"),
        ({"start": -1}, "start -1 is not 0 or more"),
        ({"gap_v": float("nan")}, "gap_v nan"),
        ({"learning_rate": 0.0}, "learning_rate 0.0"),
        ({"learning_rate": 1e-5}, "min_learning_rate 0.0003 is above"),
        ({"decay": 1.0}, "decay 1.0"),
        ({"kl_rows": 0.0}, "kl_rows 0.0"),
        ({"kl_rows": 1.5}, "kl_rows 1.5"),
        ({"clip": 0.0}, "clip 0.0"),
        ({"horizon": 299}, "horizon 299 is less than steps 300"),
        ({"ce": (0.0, 1.0)}, "ce .* and kl .* are both 0"),
        ({"kl": (0.0, -1.0)}, "kl .* two weights"),
        ({"order": "size"}, "order size is not one of: kind, sensitivity"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(changes, words):
    with pytest.raises(UsageError, match=words):
        replace(PUBLISHED["gpt2"], **changes)


def test_weights_go_linearly_from_the_first_step_to_the_last():
    one = replace(PUBLISHED["gpt2"], ce=(1.0, 0.5), kl=(0.0, 1.0), steps=5, horizon=5)
    found = [(w.ce, w.kl) for w in (one.weights(step) for step in range(5))]
    assert found == [(1.0, 0.0), (0.875, 0.25), (0.75, 0.5), (0.625, 0.75), (0.5, 1.0)]
    assert one.weights(9).kl == 1.0 and one.needs_teacher
    assert not PUBLISHED["gpt2"].needs_teacher
