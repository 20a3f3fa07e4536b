"""Held-out loss of a language model without its norms, beside the original and the control.

The first three rows are what one `normsurgery remove-ln --finetune` says. The control, the
untouched model with the same fine-tuning, is none at a bad learning rate: it is trained at half and
at twice the rate as well. --variants removes the norms in other ways, at the same budget.

    python benchmarks/remove_ln.py [MODEL TRAIN HELD] [--tokens N] [--window N] [--variants]

MODEL is a directory; TRAIN and HELD are what `--data` takes. Without them: the GPT-2 that the
project ships on the bundled samples, with a budget that shows no more than that it runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

import normsurgery
from normsurgery.checkpoint import open_checkpoint
from normsurgery.report.progress import Silent
from normsurgery.train.domains import load_domains
from normsurgery.train.removal.options import RemovalOptions
from normsurgery.train.removal.run import train_control
from normsurgery.train.removal.schedule import Schedule
from normsurgery.train.run import Subject
from normsurgery.verify.losses import loss_quantiles, model_losses

SHIPPED = Path(__file__).parents[1] / "tests" / "data" / "tiny-gpt2-6x96"
BATCH = 16
# Keys of a schedule file, and options of the command, beside the defaults.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cross-entropy alone": ({}, {"teacher": "none"}),
    "  without the auxiliary loss": ({"auxiliary": 0.0}, {"teacher": "none"}),
    "  by sensitivity": ({"order": "sensitivity"}, {"teacher": "none"}),
    "KL to the original": ({}, {"teacher": "original"}),
}


@dataclass(frozen=True)
class Task:
    """A model and its texts. tokens: to train on; window: tokens a row."""

    model: Path
    train: str
    held: str
    tokens: int
    window: int

    def remove(self, output: Path, **options: Any) -> dict[str, Any]:
        """The document of one run."""
        return normsurgery.remove_ln(
            self.model, output, finetune=True, data=self.train, other_data=self.held,
            tokens=self.tokens, max_length=self.window, batch_size=BATCH, verify=False, **options,
        ).to_dict()  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="models without norms")
    parser.add_argument("model", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("train", nargs="?", default="sample:prose")
    parser.add_argument("held", nargs="?", default="sample:drama")
    parser.add_argument(
        "--tokens", type=int, help="to train on; default: 3,000,000 where a model is given"
    )
    parser.add_argument("--window", type=int, default=128, help="tokens a row")
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--one-control", action="store_true", help="at the run's own rate only")
    given = parser.parse_args()
    tokens = given.tokens or (40_000 if given.model == SHIPPED else 3_000_000)
    task = Task(given.model, given.train, given.held, tokens, given.window)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, float32")
    print(
        f"{given.model.name}, {tokens:,} tokens in rows of {given.window}, {BATCH} rows a step; "
        f"losses of {given.held}"
    )
    print(
        f"{'':34}{'rate':>9}{'mean':>9}{'median':>9}{'p99.9':>9}{'max':>9}{'worst':>8}{'seconds':>9}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        document = table(task, Path(scratch), others=not given.one_control)
        if given.variants:
            variants(task, document, Path(scratch))


def table(task: Task, scratch: Path, *, others: bool) -> dict[str, Any]:
    """Print original, control and result, and the control at other rates; the run's document."""
    document = task.remove(scratch / "default", control=True)
    losses = list(document["losses"].values())[-1]
    rate = document["schedule"]["learning_rate"]
    row("original", losses["original"])
    row("control", losses["control"], rate, document["control"]["loss"])
    ce = document["training"]["ce"]
    row("norm-free", losses["result"], rate, ce, document["seconds"])
    for factor in (0.5, 2.0) if others else ():
        figures, steps, seconds = control(task, document["schedule"], rate * factor, scratch)
        row("control", figures, rate * factor, steps, seconds)
    return document


def variants(task: Task, document: dict[str, Any], scratch: Path) -> None:
    """Print the norms removed in other ways. No control is trained where none teaches."""
    for number, (title, (keys, options)) in enumerate(VARIANTS.items()):
        file = scratch / f"{number}.yaml"
        file.write_text(yaml.safe_dump(keys), encoding="utf-8")
        made = task.remove(
            scratch / str(number), schedule=file if keys else "auto", control=False, **options
        )
        losses = list(made["losses"].values())[-1]
        row(
            title,
            losses["result"],
            made["schedule"]["learning_rate"],
            made["training"]["ce"],
            made["seconds"],
        )


def control(
    task: Task, schedule: dict[str, Any], rate: float, scratch: Path
) -> tuple[dict[str, Any], list[Any], float]:
    """The untouched model at another rate: figures of the held-out text, losses, seconds."""
    subject = Subject.of(open_checkpoint(task.model), trust_remote_code=False, allow_pickle=False)
    least = schedule["min_learning_rate"] / schedule["learning_rate"]
    other = Schedule(**{**schedule, "ce": (1.0, 1.0), "kl": (0.0, 0.0)})
    other = replace(other, learning_rate=rate, min_learning_rate=rate * least)
    text = load_domains(
        task.model, data=task.train, text_column="text", tokens=task.tokens,
        max_length=task.window, seed=0, other_data=task.held,
    )  # fmt: skip
    started = time.perf_counter()
    trained = train_control(
        subject, text.training, other, RemovalOptions(batch_size=BATCH), scratch / f"{rate}",
        progress=Silent(),
    )  # fmt: skip
    rows = list(text.measured.values())[-1]
    figures = loss_quantiles(model_losses(trained.model, rows, device=torch.device("cpu")))
    return figures, trained.loss, time.perf_counter() - started


def row(
    title: str, figures: dict[str, Any], rate: float | None = None, losses: Any = (),
    seconds: float | None = None,
) -> None:  # fmt: skip
    """worst: the largest loss of a step over the mean of the first ten."""
    at = f"{rate:9.1e}" if rate else " " * 9
    values = [value for _, value in losses]
    worst = f"{max(values) / (sum(values[:10]) / len(values[:10])):7.2f}×" if values else " " * 8
    took = f"{seconds:9.0f}" if seconds else ""
    shown = "".join(f"{figures[key]:9.4f}" for key in ("mean", "median", "p999", "max"))
    print(f"{title:34}{at}{shown}{worst}{took}", flush=True)


if __name__ == "__main__":
    main()
