"""Figures of difference, gathered chunk by chunk.

Everything is summed in float64, and nothing larger than a chunk is widened to it: a vocabulary of
250,000 over 2,048 tokens would be 4 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_VALUES = 2**22
_QUANTILE = 0.999


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Aligned row chunks of tensors [rows, width], each at most CHUNK_VALUES values."""
    rows, width = tensors[0].shape
    step = max(1, CHUNK_VALUES // max(1, width))
    for start in range(0, rows, step):
        yield tuple(tensor[start : start + step] for tensor in tensors)


@dataclass(frozen=True)
class Difference:
    """Absolute differences over `count` values; nonfinite: values finite on one side only."""

    max: float = 0.0
    p999: float = 0.0
    mean: float = 0.0
    nonfinite: int = 0
    count: int = 0

    def to_dict(self) -> dict[str, float]:
        return {"max": self.max, "p999": self.p999, "mean": self.mean}


class DifferenceGatherer:
    """Gathers a Difference; count is known ahead, so p99.9 is exact (nearest rank).

    Only the values from that rank upward are kept: a thousandth of all.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._keep = count - math.ceil(_QUANTILE * count) + 1
        self._top = torch.empty(0, dtype=torch.float64)
        self._sum = 0.0
        self._seen = 0
        self._nonfinite = 0

    def update(self, first: Tensor, second: Tensor) -> None:
        """Add rows [n, width] of both sides."""
        for a, b in chunks(first, second):
            self._add(a, b)

    def _add(self, a: Tensor, b: Tensor) -> None:
        a, b = a.double(), b.double()
        both = a.isfinite() & b.isfinite()
        same = (a == b) | (a.isnan() & b.isnan())
        self._nonfinite += int((~both & ~same).sum())
        difference = torch.where(both, (a - b).abs(), 0.0).flatten()
        self._sum += float(difference.sum())
        self._seen += difference.numel()
        if len(self._top) == self._keep:
            difference = difference[difference > self._top[-1].to(difference.device)]
        pool = torch.cat([self._top, difference.cpu()])
        self._top = pool.topk(min(self._keep, len(pool))).values

    def result(self) -> Difference:
        if self._seen != self._count:
            raise ValueError(f"{self._seen} values came, {self._count} were announced")
        if not self._seen:
            return Difference()
        return Difference(
            max=float(self._top[0]),
            p999=float(self._top[-1]),
            mean=self._sum / self._seen,
            nonfinite=self._nonfinite,
            count=self._seen,
        )


class SpreadGatherer:
    """The standard deviation of the finite values of an output, and how many are not finite."""

    def __init__(self) -> None:
        self.finite, self.nonfinite = 0, 0
        self._sum, self._squares = 0.0, 0.0

    def update(self, values: Tensor) -> None:
        for (chunk,) in chunks(values):
            wide = chunk.double()
            wide = wide[wide.isfinite()]
            self.finite += wide.numel()
            self.nonfinite += chunk.numel() - wide.numel()
            self._sum += float(wide.sum())
            self._squares += float(wide.square().sum())

    def result(self) -> float:
        if not self.finite:
            return 0.0
        mean = self._sum / self.finite
        return math.sqrt(max(0.0, self._squares / self.finite - mean * mean))


@dataclass(frozen=True)
class Spread:
    """Mean, median, p99.9 and maximum of per-token figures."""

    mean: float
    median: float
    p999: float
    max: float

    @staticmethod
    def of(values: Tensor) -> Spread | None:
        """values [tokens]; None where there are none. Nearest-rank quantiles."""
        if not len(values):
            return None
        ordered = values.double().sort().values
        last = len(ordered) - 1
        return Spread(
            mean=float(ordered.mean()),
            median=float(ordered[math.ceil(0.5 * len(ordered)) - 1]),
            p999=float(ordered[min(last, math.ceil(_QUANTILE * len(ordered)) - 1)]),
            max=float(ordered[-1]),
        )

    def to_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "median": self.median, "p999": self.p999, "max": self.max}


@dataclass(frozen=True)
class Predictions:
    """Per-token figures of two models' distributions, each [tokens]; losses only at labels."""

    kl: Tensor
    agree: Tensor
    first: Tensor
    reference_loss: Tensor
    candidate_loss: Tensor
    loss_first: Tensor


class PredictionGatherer:
    """KL(reference ‖ candidate), top-1 agreement and both cross-entropies, token by token."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def update(self, reference: Tensor, candidate: Tensor, labels: Tensor, first: Tensor) -> None:
        """Logits [n, vocabulary] of both; labels [n] (negative: none); first [n]: position 0."""
        for ref, cand, label, zero in chunks(
            reference, candidate, labels.unsqueeze(1), first.unsqueeze(1)
        ):
            self._parts.append(_token_figures(ref, cand, label.squeeze(1), zero.squeeze(1)))

    def result(self) -> Predictions:
        kl, agree, first, ref, cand, labelled = (
            torch.cat(column) for column in zip(*self._parts, strict=True)
        )
        return Predictions(kl, agree, first, ref[labelled], cand[labelled], first[labelled])


def _token_figures(ref: Tensor, cand: Tensor, labels: Tensor, first: Tensor) -> tuple[Tensor, ...]:
    ref_log = functional.log_softmax(ref.double(), dim=-1)
    cand_log = functional.log_softmax(cand.double(), dim=-1)
    # xlogy's rule 0 · log 0 = 0: a logit of -inf has probability 0 on both sides.
    terms = torch.where(ref_log.isneginf(), 0.0, ref_log.exp() * (ref_log - cand_log))
    kl = terms.sum(-1).clamp_min(0.0)
    # Low-precision logits tie; the candidate agrees if its choice is one of the reference's best.
    choice = cand.argmax(-1, keepdim=True)
    agree = ref.gather(-1, choice).squeeze(-1) == ref.amax(-1)
    labels = labels.to(ref.device)
    index = labels.clamp_min(0).unsqueeze(-1)
    losses = [-log.gather(-1, index).squeeze(-1) for log in (ref_log, cand_log)]
    columns = (kl, agree, first.to(ref.device), *losses, labels >= 0)
    return tuple(column.cpu() for column in columns)
