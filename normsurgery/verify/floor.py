"""Differences output by output and position 0 apart, and the noise floor made of them."""

from __future__ import annotations

from dataclasses import replace

import torch

from normsurgery.verify.figures import DifferenceGatherer
from normsurgery.verify.run import Rows, RowStore
from normsurgery.verify.verdict import Parted


class PartedGatherer:
    """Difference figures of one output, position 0 apart; sized by the reference's rows."""

    def __init__(self, shaped_like: list[Rows]) -> None:
        first = sum(int(rows.first.sum()) * rows.values.shape[1] for rows in shaped_like)
        total = sum(rows.values.numel() for rows in shaped_like)
        self._first = DifferenceGatherer(first)
        self._rest = DifferenceGatherer(total - first)

    def update(self, known: Rows, other: torch.Tensor) -> None:
        """Compare `other` [rows, width] with the known rows of the same positions."""
        values, first = known.values.to(other.device), known.first.to(other.device)
        self._first.update(values[first], other[first])
        self._rest.update(values[~first], other[~first])

    def result(self) -> Parted:
        return Parted(rest=self._rest.result(), first=self._first.result())


def gatherers(store: RowStore) -> dict[str, PartedGatherer]:
    """One gatherer for each output in the store."""
    batches = [store[index] for index in range(len(store))]
    return {name: PartedGatherer([outputs[name] for outputs in batches]) for name in batches[0]}


class FloorGatherer:
    """The differences of a narrow run from the truth."""

    def __init__(self, truth: RowStore) -> None:
        self._truth = truth
        self._parts = gatherers(truth)

    def update(self, index: int, outputs: dict[str, Rows]) -> None:
        for name, known in self._truth[index].items():
            self._parts[name].update(known, outputs[name].values)

    def result(self) -> dict[str, Parted]:
        return {name: gatherer.result() for name, gatherer in self._parts.items()}


def scaled(part: Parted, factor: float) -> Parted:
    """The figures of a run whose rounding is `factor` times as coarse."""
    first, rest = (
        replace(d, max=d.max * factor, p999=d.p999 * factor, mean=d.mean * factor)
        for d in (part.first, part.rest)
    )
    return Parted(rest=rest, first=first)
