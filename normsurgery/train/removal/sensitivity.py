"""How much the loss rises when one path alone is frozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normsurgery.calibrate.text.rows import TextRows
from normsurgery.report.progress import Advance
from normsurgery.train.losses import IGNORED, cross_entropy, predictions
from normsurgery.train.norms.attach import Removal
from normsurgery.train.removal.trainer import batches


def measure_sensitivity(
    removal: Removal,
    rows: TextRows,
    *,
    count: int,
    batch_size: int,
    advance: Advance | None = None,
) -> dict[str, float]:
    """Path → added cross-entropy a token, in nats, over the first `count` rows.

    The removal must have been calibrated; it is left as it was. advance: told of each path.
    """
    before = removal.state()
    plain = mean_loss(removal, rows, count=count, batch_size=batch_size)
    found = {}
    for path in removal.paths:
        removal.remove([path.name])
        loss = mean_loss(removal, rows, count=count, batch_size=batch_size)
        found[path.name] = loss - plain
        removal.restore(before)
        if advance is not None:
            advance(1)
    return found


def mean_loss(removal: Removal, rows: TextRows, *, count: int, batch_size: int) -> float:
    """Cross-entropy a token, in nats, of the model as it is, over the first `count` rows."""
    model: Any = removal.model
    device = next(model.parameters()).device
    total, tokens = torch.zeros((), dtype=torch.float64, device=device), 0
    with torch.no_grad(), removal.still():
        for batch in batches(rows, count, batch_size, labels=True):
            labels: Tensor = batch.pop("labels").to(device)
            logits = model(**{name: part.to(device) for name, part in batch.items()}).logits
            targets = labels[labels != IGNORED]
            total += cross_entropy(predictions(logits, labels), targets)
            tokens += len(targets)
    return float(total) / tokens
