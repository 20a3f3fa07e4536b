"""Held-out loss of a cut model healed by training, method by method at equal steps.

MODELS holds llama-12x256 with its .train.txt and .held.txt beside it. Three of its twelve blocks
are dropped, 5 to 7; each method trains on the same rows for the same number of steps and sees the
held-out text never. The baseline of arXiv 2411.15558 drops the last three blocks instead and
trains head, final norm and last three blocks.

    python benchmarks/heal.py MODELS [--steps 80] [--model llama-12x256]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import normsurgery
from normsurgery.calibrate.rows import TextRows
from normsurgery.calibrate.sources import load_rows
from normsurgery.verify import ModelSource
from normsurgery.verify.losses import loss_quantiles, measure

WINDOW = 256
DROPPED = "0-4,8-11"
LAST_DROPPED = "0-8"
METHODS = ("lora", "head+last3", "full")


def main() -> None:
    parser = argparse.ArgumentParser(description="healing by training, method by method")
    parser.add_argument("models", type=Path, metavar="MODELS")
    parser.add_argument("--model", default="llama-12x256")
    parser.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    model = arguments.models / arguments.model
    held = arguments.models / f"{arguments.model}.held.txt"
    rows = load_rows(model, data=str(held), tokens=10**9, max_length=WINDOW)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, float32")
    print(f"{arguments.steps} steps of 8 windows of {WINDOW}; held out: {rows.tokens:,} tokens")
    print(f"{'':34}{'loss':>8}{'perplexity':>12}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as scratch:
        table(model, rows, arguments.steps, Path(scratch))


def table(model: Path, rows: TextRows, steps: int, scratch: Path) -> None:
    """Print the rows: original, cut, each method, and the baseline."""
    row("original", model, rows, scratch)
    cut, last = scratch / "cut", scratch / "last"
    normsurgery.arrange(str(model), cut, blocks=DROPPED)
    row("blocks 5-7 dropped", cut, rows, scratch)
    for method in METHODS:
        healed(f"  healed, {method}", model, cut, method, rows, steps, scratch)
    normsurgery.arrange(str(model), last, blocks=LAST_DROPPED)
    row("last three blocks dropped", last, rows, scratch)
    healed("  healed, head+last3", model, last, "head+last3", rows, steps, scratch)


def healed(
    title: str, original: Path, cut: Path, method: Any, rows: TextRows, steps: int, scratch: Path
) -> None:
    """Heal and print."""
    output = scratch / f"{cut.name}-{method}"
    started = time.perf_counter()
    normsurgery.heal(
        cut, output, teacher=original, train=method, steps=steps, max_length=WINDOW,
        data=str(original.with_name(f"{original.name}.train.txt")), verify=False,
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
