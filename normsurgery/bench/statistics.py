"""Figures of repeated measurements: percentiles, and ratios of pairs with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

MIN_PAIRS = 6  # the median of five lies outside their whole range once in 16 times, over 5 %
CONFIDENCE = 0.95
_RESAMPLES = 2000
WITHIN_NOISE, TOO_FEW = "within noise", "too few runs"


@dataclass(frozen=True)
class Ratio:
    """A ratio with its 95 % interval; `low` and `high` are None where there are too few pairs."""

    value: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def words(self) -> str:
        """ "within noise" where the interval holds 1, "too few runs" where there is none."""
        if self.low is None or self.high is None:
            return TOO_FEW
        return WITHIN_NOISE if self.low <= 1.0 <= self.high else ""

    def to_dict(self) -> dict[str, float | int | str | None]:
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "pairs": self.pairs,
            "words": self.words,
        }


def paired_ratio(over: Sequence[float], under: Sequence[float], *, seed: int = 0) -> Ratio:
    """The median of over[i] / under[i], with the percentile bootstrap of its pairs.

    Runs of one round stand beside each other, so what disturbed the machine then is in both and
    leaves the ratio. The median, since a run that was interrupted would pull a mean. Fewer than
    six pairs give no interval: theirs would claim more than they can show.
    ValueError where the two differ in length, are empty, or hold a number that is not positive.
    """
    if len(over) != len(under) or not over:
        raise ValueError(f"{len(over)} measurements cannot be paired with {len(under)}")
    if min(*over, *under) <= 0.0 or not all(map(math.isfinite, (*over, *under))):
        raise ValueError("a ratio needs positive measurements")
    logs = torch.tensor(over, dtype=torch.float64).log()
    logs = logs - torch.tensor(under, dtype=torch.float64).log()
    value = math.exp(_median(logs).item())
    if len(logs) < MIN_PAIRS:
        return Ratio(value, None, None, len(logs))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(logs), (_RESAMPLES, len(logs)), generator=generator)
    medians = _median(logs[drawn]).sort().values
    tail = int(_RESAMPLES * (1.0 - CONFIDENCE) / 2.0)
    low, high = medians[tail].exp().item(), medians[-1 - tail].exp().item()
    return Ratio(value, min(low, value), max(high, value), len(logs))


def _median(values: torch.Tensor) -> torch.Tensor:
    """Along the last dimension; between the middle two where their number is even."""
    ordered = values.sort(dim=-1).values
    last = values.shape[-1] - 1
    return (ordered[..., last // 2] + ordered[..., (last + 1) // 2]) / 2.0


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: the smallest value that `share` of them do not exceed."""
    if not values:
        raise ValueError("no measurements")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def latencies(seconds: Sequence[float]) -> dict[str, float | int]:
    """mean, p50, p90 and p99 in seconds, and of how many."""
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return {
        "mean": math.fsum(seconds) / len(seconds),
        **{name: percentile(seconds, share) for name, share in shares.items()},
        "count": len(seconds),
    }


def mean_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float | None]:
    """The mean of second[i] − first[i] and its standard error; None for one pair.

    ValueError where they differ in length or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} values cannot be paired with {len(second)}")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean, count = math.fsum(differences) / len(differences), len(differences)
    if count < 2:
        return mean, None
    squares = math.fsum((difference - mean) ** 2 for difference in differences)
    return mean, math.sqrt(squares / (count - 1) / count)


def clustered_error(values: torch.Tensor, clusters: Sequence[int]) -> float | None:
    """The standard error of the mean of values [n] that come in runs of `clusters` sizes.

    Tokens of one row depend on each other, so that the rows are what is independent (the cluster
    sandwich of a mean, with its small-sample factor). None for one cluster.
    """
    if sum(clusters) != len(values):
        raise ValueError(f"clusters of {sum(clusters)} for {len(values)} values")
    count = len(clusters)
    if count < 2:
        return None
    centred = values.double() - values.double().mean()
    parts = torch.split(centred, list(clusters))
    sums = torch.stack([part.sum() for part in parts])
    return math.sqrt(float(sums.square().sum()) * count / (count - 1)) / len(values)
