"""Held-out loss of a cut model healed by training, method by method at equal steps.

Blocks in the middle are dropped; each method trains on the same rows for the same number of steps
and never sees the held-out text. The baseline of arXiv 2411.15558 drops the last blocks instead
and trains head, final norm and last three blocks.

    python benchmarks/heal.py [MODEL TRAIN HELD] [--drop N] [--window N] [--steps N]

MODEL is a directory; TRAIN and HELD are what `--data` takes. Without them: the GPT-2 that the
project ships, on the bundled prose.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

import normsurgery
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.calibrate.text.sources import load_rows
from normsurgery.verify import ModelSource
from normsurgery.verify.losses import loss_quantiles, measure

SHIPPED = Path(__file__).parents[1] / "tests" / "data" / "tiny-gpt2-6x96"
PROSE = "sample:prose"
HELD_TOKENS = 50_000  # at most
METHODS = ("lora", "head+last3", "full")


@dataclass(frozen=True)
class Task:
    """A model and its texts. skip: tokens of the held-out source that may be trained on."""

    model: Path
    train: str
    held: str
    skip: int
    window: int
    steps: int

    def held_rows(self) -> TextRows:
        return load_rows(
            self.model, data=self.held, tokens=HELD_TOKENS, max_length=self.window,
            skip_tokens=self.skip,
        )  # fmt: skip

    @property
    def tokens(self) -> int:
        """What is trained on, once; a tenth more is held out by `heal` itself."""
        return self.steps * 8 * self.window * 10 // 9


def main() -> None:
    parser = argparse.ArgumentParser(description="healing by training, method by method")
    parser.add_argument("model", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("train", nargs="?", default=PROSE)
    parser.add_argument("held", nargs="?", default=PROSE)
    parser.add_argument("--drop", type=int, help="how many blocks; default: a quarter")
    parser.add_argument("--window", type=int, default=128, help="tokens a row")
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    train_tokens = given.steps * 8 * given.window * 10 // 9
    skip = train_tokens if given.held == given.train else 0
    task = Task(given.model, given.train, given.held, skip, given.window, given.steps)
    rows = task.held_rows()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, float32")
    print(f"{task.steps} steps of 8 windows of {task.window}; held out: {rows.tokens:,} tokens")
    print(f"{'':34}{'loss':>8}{'perplexity':>12}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as scratch:
        table(task, rows, given.drop, Path(scratch))


def table(task: Task, rows: TextRows, count: int | None, scratch: Path) -> None:
    """Print the rows: original, cut, each method, and the baseline."""
    row("original", task.model, rows, scratch)
    depth = int(AutoConfig.from_pretrained(task.model).num_hidden_layers)
    count = count or max(1, depth // 4)
    first = depth - count - depth // 3
    dropped = f"{first}-{first + count - 1}"
    cut, last = scratch / "cut", scratch / "last"
    normsurgery.prune(task.model, cut, drop=dropped, verify=False)
    row(f"blocks {dropped} dropped", cut, rows, scratch)
    for method in METHODS:
        healed(f"  healed, {method}", task, cut, method, rows, scratch)
    normsurgery.prune(task.model, last, drop=count, method="last", verify=False)
    row(f"last {count} dropped", last, rows, scratch)
    healed("  healed, head+last3", task, last, "head+last3", rows, scratch)


def healed(title: str, task: Task, cut: Path, method: Any, rows: TextRows, scratch: Path) -> None:
    """Heal and print."""
    output = scratch / f"{cut.name}-{method}"
    started = time.perf_counter()
    normsurgery.heal(
        cut, output, teacher=task.model, train=method, steps=task.steps, max_length=task.window,
        data=task.train, tokens=task.tokens, verify=False,
    )  # fmt: skip
    row(title, output, rows, scratch, seconds=time.perf_counter() - started)


def row(
    title: str, model: Path, rows: TextRows, scratch: Path, seconds: float | None = None
) -> None:
    """Measure on the held-out text and print."""
    found = measure(
        ModelSource(model), {"held": rows}, dtype=torch.float32, device=torch.device("cpu"),
        scratch=scratch,
    )  # fmt: skip
    figures = loss_quantiles(found.losses["held"])
    took = "" if seconds is None else f"{seconds:9.0f}"
    print(f"{title:34}{figures['mean']:8.4f}{figures['perplexity']:12.2f}{took}", flush=True)


if __name__ == "__main__":
    main()
