"""Percentiles, paired ratios and their intervals."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normsurgery.bench.statistics import (
    TOO_FEW,
    WITHIN_NOISE,
    clustered_error,
    latencies,
    mean_difference,
    paired_ratio,
    percentile,
)

SECONDS = st.floats(1e-6, 1e3)
SERIES = st.lists(SECONDS, min_size=1, max_size=20)
PAIRS = st.lists(st.tuples(SECONDS, SECONDS), min_size=6, max_size=20)


@given(st.lists(SECONDS, min_size=6, max_size=20))
def test_equal_series_are_within_noise(times):
    ratio = paired_ratio(times, times)
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    assert ratio.words == WITHIN_NOISE


@settings(max_examples=40)
@given(PAIRS)
def test_the_interval_holds_the_ratio_and_stays_among_the_pairs(pairs):
    over, under = zip(*pairs, strict=True)
    ratio = paired_ratio(over, under)
    ratios = [a / b for a, b in pairs]
    assert ratio.low is not None and ratio.high is not None
    assert ratio.low <= ratio.value <= ratio.high
    assert min(ratios) * (1 - 1e-9) <= ratio.low and ratio.high <= max(ratios) * (1 + 1e-9)
    assert ratio.value == pytest.approx(math.exp(statistics.median(map(math.log, ratios))))


@settings(max_examples=40)
@given(PAIRS)
def test_the_other_way_round_is_the_inverse(pairs):
    over, under = zip(*pairs, strict=True)
    there, back = paired_ratio(over, under), paired_ratio(under, over)
    assert there.value * back.value == pytest.approx(1.0)


@settings(max_examples=40)
@given(PAIRS, st.floats(0.1, 10.0))
def test_what_slows_a_whole_round_leaves_the_ratio(pairs, slowdown):
    over, under = zip(*pairs, strict=True)
    slow = [slowdown if i % 2 else 1.0 for i in range(len(pairs))]
    slowed = [[t * s for t, s in zip(series, slow, strict=True)] for series in (over, under)]
    plain, disturbed = paired_ratio(over, under), paired_ratio(*slowed)
    assert disturbed.value == pytest.approx(plain.value)
    assert disturbed.low == pytest.approx(plain.low)


@pytest.mark.parametrize("pairs", [6, 10, 25])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(pairs):
    """Lognormal noise around a true ratio of 1.1: at least 92 of 100, and never all of 300."""
    generator = torch.Generator().manual_seed(pairs)
    covered = 0
    for trial in range(300):
        noise = torch.randn(2, pairs, generator=generator, dtype=torch.float64).mul(0.1).exp()
        ratio = paired_ratio((1.1 * noise[0]).tolist(), noise[1].tolist(), seed=trial)
        assert ratio.low is not None and ratio.high is not None
        covered += ratio.low <= 1.1 <= ratio.high
    assert 276 <= covered < 300


def test_a_difference_beyond_the_noise_has_no_words():
    over = [1.2, 1.21, 1.19, 1.2, 1.22, 1.18]
    assert paired_ratio(over, [1.0] * 6).words == ""


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_pairs_give_no_interval(count):
    ratio = paired_ratio([2.0] * count, [1.0] * count)
    assert ratio.value == pytest.approx(2.0)
    assert (ratio.low, ratio.words) == (None, TOO_FEW)


@pytest.mark.parametrize(
    ("over", "under"), [([], []), ([1.0], [1.0, 1.0]), ([0.0], [1.0]), ([math.inf], [1.0])]
)
def test_what_is_no_pair_of_times_is_refused(over, under):
    with pytest.raises(ValueError, match=r"paired|positive"):
        paired_ratio(over, under)


@given(SERIES, st.floats(0.01, 1.0))
def test_a_percentile_is_the_smallest_value_that_the_share_does_not_exceed(values, share):
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) * (1 - 1e-12)
    assert sum(v < found for v in values) < share * len(values)


def test_latencies_of_a_hundred_times():
    figures = latencies([float(i) for i in range(1, 101)])
    assert figures == {"mean": 50.5, "p50": 50.0, "p90": 90.0, "p99": 99.0, "count": 100}


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=20))
def test_a_paired_difference_is_the_mean_with_its_error(pairs):
    first, second = zip(*pairs, strict=True)
    differences = [b - a for a, b in pairs]
    mean, error = mean_difference(first, second)
    assert mean == pytest.approx(statistics.fmean(differences), abs=1e-9)
    expected = statistics.stdev(differences) / math.sqrt(len(pairs))
    assert error == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_one_pair_has_no_error():
    assert mean_difference([1.0], [3.0]) == (2.0, None)


def test_clusters_of_one_give_the_usual_error_and_copies_add_no_certainty():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    usual = float(values.std() / 2.0)
    assert clustered_error(values, [1, 1, 1, 1]) == pytest.approx(usual)
    assert clustered_error(values.repeat_interleave(5), [5, 5, 5, 5]) == pytest.approx(usual)
    assert clustered_error(values, [4]) is None
