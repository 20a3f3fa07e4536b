"""Which tokens the scores look at: pads and each row's position 0 never."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normsurgery.calibrate.distributed import Processes
from normsurgery.calibrate.text.rows import TextRows


@dataclass(frozen=True)
class Sample:
    """places: per batch of this process, positions [k] in the flattened [rows × time].

    tokens: of all processes.
    """

    places: tuple[Tensor, ...]
    tokens: int

    def take(self, batch: int, values: Tensor) -> Tensor:
        """The sample's rows of `values` [rows × time, d] (or [rows, time, d]): [k, d], a copy."""
        places = self.places[batch].to(values.device)
        return values.reshape(-1, values.shape[-1]).index_select(0, places)


def scored_sample(
    batches: Sequence[TextRows], processes: Processes, wanted: int | None = None, seed: int = 0
) -> Sample:
    """`wanted` scored tokens of all batches, drawn once; all of them where None or fewer exist.

    batches: of all processes, so that the choice does not depend on how many there are.
    """
    scored = [batch.scored.flatten().nonzero()[:, 0] for batch in batches]
    total = sum(len(places) for places in scored)
    if wanted is not None and wanted < total:
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[order[:wanted]] = True
        kept = torch.split(chosen, [len(places) for places in scored])
        scored = [places[keep] for places, keep in zip(scored, kept, strict=True)]
        total = wanted
    return Sample(tuple(scored[processes.rank :: processes.count]), total)


def last_tokens(batches: Sequence[TextRows], processes: Processes) -> Sample:
    """The last real token of every row that has more than one."""
    found = []
    for batch in batches:
        lengths = batch.mask.sum(1)
        rows = (lengths > 1).nonzero()[:, 0]
        found.append(rows * batch.mask.shape[1] + lengths[rows] - 1)
    total = sum(len(places) for places in found)
    return Sample(tuple(found[processes.rank :: processes.count]), total)
