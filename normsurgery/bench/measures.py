"""From times of runs to the document's figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from normsurgery.bench.statistics import latencies, paired_ratio
from normsurgery.bench.subject import Cell
from normsurgery.bench.timing import Run


def cell_figures(
    cell: Cell, runs: Mapping[str, Sequence[Run]], *, mode: str, seed: int
) -> dict[str, Any]:
    """One cell's entry: per measure the ratios to the first model, then every model's figures.

    runs: of each model by its name, the first being what the others are compared with; the i-th of
    each were made in the same round.
    """
    measures = {}
    for name, (units, unit, of) in _measures(cell).items():
        times = {model: [of(run) for run in of_model] for model, of_model in runs.items()}
        first = next(iter(times.values()))
        measures[name] = {
            "speedup": [
                None if times[model] is first
                else paired_ratio(first, times[model], seed=seed).to_dict()
                for model in times
            ],
            "per_second": [units * len(ts) / sum(ts) for ts in times.values()],
            "unit": unit,
            "latency": [latencies(_single(name, of_model)) for of_model in runs.values()],
        }  # fmt: skip
    return {"mode": mode, "batch": cell.batch, "length": cell.length, "measures": measures}


def _measures(cell: Cell) -> dict[str, tuple[int, str, Callable[[Run], float]]]:
    """Name → how many units a run handles, what these are, and how long it took over them."""
    unit = "samples" if cell.length is None else "tokens"
    units = cell.batch * (cell.length or 1)
    if not cell.new_tokens:
        return {"forward": (units, unit, _first)}
    return {
        "prefill": (units, unit, _first),
        "decode": (cell.batch * (cell.new_tokens - 1), "tokens", _rest),
    }


def _first(run: Run) -> float:
    return run.forward


def _rest(run: Run) -> float:
    return math.fsum(run.steps)


def _single(name: str, runs: Sequence[Run]) -> list[float]:
    """The times that percentiles are taken of: of each token where text is written."""
    if name == "decode":
        return [step for run in runs for step in run.steps]
    return [run.forward for run in runs]
