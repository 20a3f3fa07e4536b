"""Rows, subjects and runs for the tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from normsurgery.calibrate.text.rows import TextRows
from normsurgery.checkpoint import open_checkpoint
from normsurgery.report.progress import Advance, Silent, Unit
from normsurgery.train.options import LossWeights, Method, TrainOptions
from normsurgery.train.run import Subject, Trained, train

VOCABULARY = 90


def rows(count: int = 12, length: int = 16, *, seed: int = 0) -> TextRows:
    """Random rows, every other one shorter, so that there are pads."""
    draw = torch.Generator().manual_seed(seed)
    lengths = [length if index % 2 == 0 else length - 5 for index in range(count)]
    ids = [torch.randint(0, VOCABULARY, (size,), generator=draw).tolist() for size in lengths]
    return TextRows.of(ids, source="random")


def subject(directory: Path, *, trust_remote_code: bool = False) -> Subject:
    return Subject.of(
        open_checkpoint(directory), trust_remote_code=trust_remote_code, allow_pickle=False
    )


def options(method: Method = "full", steps: int = 6, **changes: Any) -> TrainOptions:
    values: dict[str, Any] = {
        "batch_size": 2,
        "device": "cpu",
        "save_every": 2,
        "lora_rank": 4,
        **changes,
    }
    return TrainOptions(method=method, steps=steps, **values)


def run(
    student: Path, teacher: Path | None, work: Path, chosen: TrainOptions, **others: Any
) -> Trained:
    """Train a tiny student on random rows."""
    text = others.pop("rows", None) or rows()
    return train(
        subject(student), None if teacher is None else subject(teacher),
        text, chosen, work, **others,
    )  # fmt: skip


DIVERGENCE = LossWeights(ce=0.0, kl=1.0)


class InterruptedRunError(Exception):
    """Stands for whatever stops a run from outside."""


class StopsAt(Silent):
    """A Progress whose training task raises when so many steps are done."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextmanager
    def task(self, description: str, total: int | None, unit: Unit) -> Iterator[Advance]:
        def advance(n: int, note: str = "") -> None:
            self.left -= n
            if description == "train" and self.left <= 0:
                raise InterruptedRunError

        yield advance
