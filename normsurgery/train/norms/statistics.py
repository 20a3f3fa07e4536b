"""σ̂ of each path: a mean over tokens, smoothed over optimizer steps, summed over processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normsurgery.train.norms.tokens import END, FIRST, ORDINARY, Tokens


@dataclass(frozen=True)
class Sigma:
    """σ̂ of a path as it is used now. first, end: of the rows' first tokens and of ends of text.

    end: None where the text has no end token or none was seen. removed: whether σ̂ is frozen.
    """

    ordinary: float
    first: float
    end: float | None
    removed: bool


class Sums:
    """Sums of σ and counts by kind of token since the last tick, at one site."""

    def __init__(self) -> None:
        self.total: Tensor | None = None  # float64 [2, kinds]: sums of σ, counts

    def add(self, sigma: Tensor, tokens: Tokens) -> None:
        """sigma: [..], σ of each row."""
        flat = sigma.flatten()
        weights = tokens.weights(sigma.shape, sigma.device).to(flat.dtype)
        found = torch.stack([flat, torch.ones_like(flat)]) @ weights
        self.total = found.double() if self.total is None else self.total + found

    def clear(self) -> None:
        self.total = None


def means(sums: Sequence[Sums]) -> list[dict[int, float]]:
    """Kind of token → mean σ at each site, over all processes; clears the sums."""
    held = next((one.total for one in sums if one.total is not None), None)
    device = torch.device("cpu") if held is None else held.device
    empty = torch.zeros(2, 4, dtype=torch.float64, device=device)
    table = torch.stack([empty if one.total is None else one.total.to(device) for one in sums])
    for one in sums:
        one.clear()
    rows = _over_processes(table).tolist()
    return [
        {kind: total[kind] / count[kind] for kind in (ORDINARY, FIRST, END) if count[kind]}
        for total, count in rows
    ]


def _over_processes(table: Tensor) -> Tensor:
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return table
    wire = torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
    shared = table.to(wire)
    distributed.all_reduce(shared)
    return shared


@dataclass
class PathState:
    """What is known of one path's σ̂. share: of the frozen norm in what the path computes, 0 … 1.

    ordinary, first, end: None until such tokens were seen. measured: mean σ of the last tick.
    """

    ordinary: float | None = None
    first: float | None = None
    end: float | None = None
    share: float = 0.0
    measured: float | None = None

    @property
    def removed(self) -> bool:
        return self.share > 0

    def tick(self, found: dict[int, float], decay: float) -> None:
        """Take one optimizer step's means. decay: weight of what is held (0: none)."""
        if ORDINARY in found:
            self.measured = found[ORDINARY]
        if self.removed:
            return
        for kind, name in ((ORDINARY, "ordinary"), (FIRST, "first"), (END, "end")):
            if kind in found:
                held = getattr(self, name)
                new = found[kind]
                setattr(self, name, new if held is None else decay * held + (1 - decay) * new)

    def special(self, value: float | None, share: float) -> float:
        """A special σ̂ on its way to the ordinary one, geometrically. value: where it started."""
        assert self.ordinary is not None
        if value is None or share >= 1:
            return self.ordinary
        return float(value ** (1 - share) * self.ordinary**share)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))
