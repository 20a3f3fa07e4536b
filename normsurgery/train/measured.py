"""Cross-entropy of models on rows that did not train."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normsurgery.calibrate.rows import TextRows
from normsurgery.report.progress import Progress
from normsurgery.train.losses import IGNORED, predictions, targets_of
from normsurgery.verify.figures import Spread
from normsurgery.verify.load import load_model
from normsurgery.verify.run import exact_arithmetic
from normsurgery.verify.sources import ModelSource

BATCH_ROWS = 8


def loss_table(
    models: Mapping[str, ModelSource],
    domains: Mapping[str, TextRows],
    *,
    device: torch.device,
    progress: Progress,
) -> dict[str, dict[str, dict[str, float] | None]]:
    """Domain → model → mean, median, p99.9 and maximum in nats a token.

    Each model runs in float32, one in memory at a time; every token but a row's first is scored.
    """
    table: dict[str, dict[str, dict[str, float] | None]] = {domain: {} for domain in domains}
    tokens = sum(rows.tokens for rows in domains.values())
    for name, source in models.items():
        with (
            tempfile.TemporaryDirectory() as scratch,
            load_model(
                source, dtype=torch.float32, device=device, scratch=Path(scratch)
            ) as loaded,
            progress.task(f"measure {name}", tokens, "tokens") as advance,
            exact_arithmetic(),
        ):  # fmt: skip
            for domain, rows in domains.items():
                parts = []
                for batch in rows.batches(BATCH_ROWS):
                    parts.append(_losses(loaded.model, batch, device))
                    advance(batch.tokens)
                spread = Spread.of(torch.cat(parts))
                table[domain][name] = None if spread is None else spread.to_dict()
    return table


def _losses(model: Any, batch: TextRows, device: torch.device) -> Tensor:
    """Cross-entropy [tokens] of a batch."""
    labels = targets_of(batch.ids, batch.mask).to(device)
    with torch.inference_mode():
        inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
        logits = model(**{name: value.to(device) for name, value in inputs.items()}).logits
        guess = predictions(logits, labels).float()
        losses = torch.nn.functional.cross_entropy(
            guess, labels[labels != IGNORED], reduction="none"
        )
    return losses.cpu()
