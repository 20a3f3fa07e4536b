"""Statistics summed over processes, and decisions that the first of them makes.

`accelerate launch -m normsurgery …` starts several; without GPUs it needs MPI for that, while
`torchrun --nproc-per-node 2 -m normsurgery …` needs nothing. Each reads whole batches, so that
every batch is what it is in a single process and only the order of float64 sums differs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")

# how many were started: torchrun and accelerate; Intel MPI, Open MPI, MVAPICH
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class Processes:
    """This process among all that work together. The default is one alone."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @staticmethod
    def joined(*, cpu: bool = False) -> Processes:
        """Join the processes that a launcher started, if one did. cpu: even where a GPU is."""
        if all(int(os.environ.get(name, "1")) == 1 for name in _COUNTS):
            return Processes()
        from accelerate import PartialState

        state = PartialState(cpu=cpu)
        return Processes(state.process_index, state.num_processes, str(state.device))

    def sum(self, value: Tensor) -> Tensor:
        """The sum over processes of a tensor of the same shape in each, where `value` was."""
        if self.count == 1:
            return value
        from torch.distributed import all_reduce

        shared = value.to(self._wire)
        all_reduce(shared)
        return shared.to(value.device)

    def from_first(self, value: T) -> T:
        """What the first process has, in all of them (any picklable value of our own)."""
        if self.count == 1:
            return value
        from torch.distributed import broadcast_object_list

        held = [value if self.rank == 0 else None]
        broadcast_object_list(held, src=0)
        return held[0]  # type: ignore[return-value]  # the first one's, which is a T

    def gathered(self, value: T) -> list[T]:
        """What each process has, in order of rank, in all of them."""
        if self.count == 1:
            return [value]
        from torch.distributed import all_gather_object

        held: list[T] = [value] * self.count
        all_gather_object(held, value)
        return held

    def wait(self) -> None:
        """Go on when all have come here."""
        self.gathered(None)

    @property
    def _wire(self) -> str:
        from torch.distributed import get_backend

        return self.device if get_backend() == "nccl" else "cpu"
