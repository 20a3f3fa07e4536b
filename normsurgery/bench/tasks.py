"""Results of lm-evaluation-harness for two models, side by side.

Takes the documents that `lm_eval.simple_evaluate` returns; knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from normsurgery.bench.perplexity import difference
from normsurgery.bench.statistics import mean_difference

Results = Mapping[str, Any]
_SAME = 1e-6  # relative: a metric is the mean of its samples


def compare_tasks(reference: Results, candidate: Results) -> list[dict[str, Any]]:
    """An entry for each task (or group) and metric: both values, the difference and its error.

    The error is that of paired samples where the metric is the mean of figures that the harness
    keeps for each sample, and both models answered the same ones; else that of two independent
    measurements. None where the harness gives none.
    """
    entries = []
    for task, metrics in reference["results"].items():
        for key, value in metrics.items():
            name, _, filtered = key.partition(",")
            other = candidate["results"].get(task, {}).get(key)
            if name.endswith("_stderr") or not (_number(value) and _number(other)) or not filtered:
                continue
            entries.append(_entry(task, name, filtered, (reference, candidate)))
    return entries


def _entry(task: str, name: str, filtered: str, both: Sequence[Results]) -> dict[str, Any]:
    values = [float(one["results"][task][f"{name},{filtered}"]) for one in both]
    errors = [_finite(one["results"][task].get(f"{name}_stderr,{filtered}")) for one in both]
    pairs = _pairs(task, name, filtered, both, values)
    if pairs is not None:
        _, error = mean_difference(*pairs)
    else:
        known = [one for one in errors if one is not None]
        error = math.hypot(*known) if len(known) == len(errors) else None
    return {
        "task": task,
        "metric": name,
        "filter": filtered,
        "shots": both[0].get("n-shot", {}).get(task),
        "samples": both[0].get("n-samples", {}).get(task, {}).get("effective"),
        "higher_is_better": both[0].get("higher_is_better", {}).get(task, {}).get(name),
        "reference": {"value": values[0], "error": errors[0]},
        "candidate": {"value": values[1], "error": errors[1]},
        "difference": difference(values[1] - values[0], error),
        "paired": pairs is not None,
    }


def _pairs(
    task: str, name: str, filtered: str, both: Sequence[Results], values: Sequence[float]
) -> list[list[float]] | None:
    """Each model's figures of the same samples in the same order; None where they do not serve."""
    found = [_samples(one, task, name, filtered) for one in both]
    if not found[0] or found[0].keys() != found[1].keys():
        return None
    columns = [[one[sample] for sample in found[0]] for one in found]
    if not all(_number(figure) for column in columns for figure in column):
        return None
    numbers = [[float(figure) for figure in column] for column in columns]
    means = [math.fsum(column) / len(column) for column in numbers]
    alike = all(
        math.isclose(mean, value, rel_tol=_SAME, abs_tol=_SAME)
        for mean, value in zip(means, values, strict=True)
    )
    return numbers if alike else None


def _samples(results: Results, task: str, name: str, filtered: str) -> dict[Any, Any]:
    """A figure for each sample, by the sample's number and prompt."""
    return {
        (sample["doc_id"], sample.get("prompt_hash")): sample[name]
        for sample in results.get("samples", {}).get(task, [])
        if name in sample and sample.get("filter", filtered) == filtered
    }


def _number(value: Any) -> bool:
    return _finite(value) is not None


def _finite(value: Any) -> float | None:
    """A figure of any numeric type; the harness writes "N/A" where it has none."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        return None
    number = float(value)
    return number if math.isfinite(number) else None
