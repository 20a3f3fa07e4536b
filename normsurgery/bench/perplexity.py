"""Perplexity of two models on the same tokens, and whether they differ."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from normsurgery.bench.statistics import clustered_error
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.errors import UsageError
from normsurgery.verify.losses import loss_table

SIGMAS = 1.96  # of a 95 % interval


def perplexity_figures(rows: TextRows, reference: Tensor, candidate: Tensor) -> dict[str, Any]:
    """Both models' losses in nats [tokens] → the document's `perplexity`.

    `difference`: candidate − reference in nats per token, with the standard error that takes rows
    as independent. `ratio`: of the perplexities, with its 95 % interval. UsageError where a loss is
    not finite.
    """
    table = loss_table(rows, {"reference": reference, "candidate": candidate})
    differences = candidate.double() - reference.double()
    if not bool(differences.isfinite().all()):
        raise UsageError(
            "a loss is not finite in this dtype", "give --dtype float32, or look with inspect"
        )
    lengths = rows.scored.sum(1)
    error = clustered_error(differences, [n for n in lengths.tolist() if n])
    mean = float(differences.mean())
    return {
        **table,
        "difference": difference(mean, error),
        "ratio": {
            "value": math.exp(mean),
            "low": None if error is None else math.exp(mean - SIGMAS * error),
            "high": None if error is None else math.exp(mean + SIGMAS * error),
        },
    }


def difference(value: float, error: float | None) -> dict[str, Any]:
    """value, error, and whether 0 lies within 1.96 errors (None without an error)."""
    noise = None if error is None else abs(value) <= SIGMAS * error
    return {"value": value, "error": error, "within_noise": noise}
