"""How long models take to load, in turns like everything else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from normsurgery.bench.statistics import MIN_PAIRS, latencies, paired_ratio
from normsurgery.bench.timing import Clock, finish
from normsurgery.errors import ResourceError
from normsurgery.verify.load import Loaded, load_model
from normsurgery.verify.sources import ModelSource, class_of, weight_bytes

_REPEATED_BYTES = 2**30  # of all models together: more take their time to load once


@dataclass
class Loader:
    """Loads models onto one device in one dtype. scratch: for one that does not fit."""

    dtype: torch.dtype
    device: torch.device
    scratch: Path
    clock: Clock

    def times(self, sources: Sequence[ModelSource]) -> list[list[float]]:
        """Seconds of several loads of each, after one that is not counted; [] for large models.

        The uncounted one reads the files into the system's cache and imports the model's code.
        """
        found: list[list[float]] = [[] for _ in sources]
        if sum(weight_bytes(source.directory) for source in sources) > _REPEATED_BYTES:
            return found
        for number in range(1 + MIN_PAIRS):
            for source, seconds in zip(sources, found, strict=True):
                with ExitStack() as stack:
                    _, taken = self.load(stack, source)
                if number:
                    seconds.append(taken)
        return found

    def load(self, stack: ExitStack, source: ModelSource) -> tuple[Loaded, float]:
        """The model, which `stack` closes, and how long it took.

        ResourceError where it does not fit into what memory is left.
        """
        class_of(source)  # its imports are no loading
        started = self.clock()
        loaded = stack.enter_context(
            load_model(source, dtype=self.dtype, device=self.device, scratch=self.scratch)
        )
        finish(self.device)
        seconds = self.clock() - started
        if loaded.offloaded:
            raise ResourceError(
                f"{source.directory.name} does not fit into memory beside the models before it",
                "bench fewer at once, or in a smaller --dtype",
            )
        return loaded, seconds


def load_figures(seconds: Sequence[Sequence[float]], *, seed: int) -> list[dict[str, Any]]:
    """Of each model: its load times, and how much faster it loads than the first."""
    return [
        {
            "latency": latencies(times),
            "speedup": paired_ratio(seconds[0], times, seed=seed).to_dict() if i else None,
        }
        for i, times in enumerate(seconds)
    ]
