"""Inputs of a model, a sample a row, with labels where the source has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """inputs: arguments of the model's forward. labels [rows]: class numbers, or None."""

    inputs: dict[str, Tensor]
    labels: Tensor | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class Samples:
    """rows: of each sample the arguments of the model's forward, every tensor [1, …], on the CPU.

    labels: a class number a sample, None where the source has none. about: where they come from
    and how they were prepared; `notes` in it says what the reader should know.
    """

    rows: tuple[Mapping[str, Tensor], ...]
    labels: tuple[int, ...] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.about.get("notes", ()))

    def batches(self, size: int) -> Iterator[Batch]:
        """Neighbours of one shape, at most `size` together."""
        start = 0
        while start < len(self.rows):
            end = start + 1
            alike = _shapes(self.rows[start])
            while end < min(len(self), start + size) and _shapes(self.rows[end]) == alike:
                end += 1
            labels = None if self.labels is None else torch.tensor(self.labels[start:end])
            yield Batch(_joined(self.rows[start:end]), labels)
            start = end

    def taken(self, numbers: Sequence[int]) -> Samples:
        """These samples, in this order."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in numbers)
        return Samples(tuple(self.rows[i] for i in numbers), labels, self.about)


def held_out(samples: Samples, share: float, *, seed: int) -> tuple[Samples, Samples]:
    """The samples in two parts, drawn at random: most of them, and `share` of them, never none.

    ValueError where there are fewer than two.
    """
    if len(samples) < 2:
        raise ValueError("one sample cannot be parted")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(len(samples) - 1, max(1, round(share * len(samples))))
    return samples.taken(sorted(order[count:])), samples.taken(sorted(order[:count]))


def _shapes(row: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in row.items()}


def _joined(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
