"""How a model wants its inputs laid out: which of several layouts, and where the pads stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.inputs import working_candidate


class Host:
    """A model's configuration and forward, seen as float32 on the CPU, whatever is offloaded."""

    def __init__(self, model: Any) -> None:
        self.config, self.forward, self._model = model.config, model.forward, model

    def parameters(self) -> Iterator[Tensor]:
        yield torch.empty(0)

    def modules(self) -> Iterator[Any]:
        yield from self._model.modules()


def chosen_layout(model: Any, run: Callable[[dict[str, Tensor]], Any], *, length: int) -> int:
    """Which of the layouts that a model's signature leaves open it takes, by trying."""
    host: Any = Host(model)
    return working_candidate(host, run, length=length, seed=0)


def padded(rows: list[list[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Ids [rows, width] of rows of several lengths, and the mask of what is no pad."""
    width = max(len(row) for row in rows)
    place: Callable[[list[int]], list[int]] = (
        (lambda row: [pad] * (width - len(row)) + row)
        if left
        else (lambda row: row + [pad] * (width - len(row)))
    )
    ids = torch.tensor([place(row) for row in rows])
    lengths = torch.tensor([len(row) for row in rows]).unsqueeze(1)
    steps = torch.arange(width).unsqueeze(0)
    mask = steps >= width - lengths if left else steps < lengths
    return ids, mask
