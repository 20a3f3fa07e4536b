"""A quarter of the blocks dropped: what each substitute and healing wins back, on two models.

    python benchmarks/depth.py [DIR] [--third MODEL] [--tokens N] [--size N]

Without DIR: the small GPT-2 that the project ships, on some of the bundled prose, one of its six
blocks dropped. DIR holds models/llama-12x256 with its .train.txt (calibration) and .held.txt
(perplexity), and models/gpt2-12x160 beside corpus/train.jsonl and corpus/val.jsonl; so does
--third, another model on that corpus. Rows are windows of the model's context (at most 256) that do
not overlap. No gradient is taken, except of T in ReplaceMe's cosine objective.

Won back: share of the loss that the plain drop of angular's window added. Cost: CPU time of the
fit over that of a plain forward pass over the same tokens; the choice of blocks is apart. Memory:
peak of the process above what it held before the fit.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from normsurgery.anatomy.block_writers import block_writers
from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.stacks import choose_stack, read_stacks
from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.fit.sequential import Fitted, Plan, refit_and_heal
from normsurgery.calibrate.fit.trial import proposals, tried
from normsurgery.calibrate.scoring.scores import score_windows
from normsurgery.calibrate.text.documents import sample
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.checkpoint import open_checkpoint
from normsurgery.surgery.set_parameters import set_parameters

SCORES = ("angular", "influence", "fit")
TRIAL_SHARE = 4  # the choice looks at one row in so many
CONTEXT = 256
Task = tuple[Path, Path, Path]  # model, calibration text, held-out text


def main() -> None:
    parser = argparse.ArgumentParser(description="substitutes for dropped blocks, side by side")
    parser.add_argument("directory", type=Path, nargs="?", help="holds models/ and corpus/")
    parser.add_argument("--third", type=Path, help="another model on the corpus")
    parser.add_argument("--only", help="of the models, the one whose name begins so")
    parser.add_argument("--tokens", type=int, default=65536, help="of calibration text")
    parser.add_argument("--size", type=int, default=3, help="how many blocks are dropped")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        tasks = shipped(Path(scratch))
        size, tokens = 1, 8192
        if arguments.directory is not None:
            tasks, size, tokens = given(arguments), arguments.size, arguments.tokens
        print(f"torch {torch.__version__}, transformers {transformers.__version__}, one thread")
        for model, train, held in tasks:
            if not arguments.only or model.name.startswith(arguments.only):
                Contest(model, train, held, tokens).run(size)


def given(arguments: argparse.Namespace) -> list[Task]:
    """The models of a directory, with their texts."""
    models, corpus = arguments.directory / "models", arguments.directory / "corpus"
    llama = models / "llama-12x256"
    texts = corpus / "train.jsonl", corpus / "val.jsonl"
    third = [(arguments.third, *texts)] if arguments.third else []
    return [
        (llama, Path(f"{llama}.train.txt"), Path(f"{llama}.held.txt")),
        (models / "gpt2-12x160", *texts),
        *third,
    ]


def shipped(scratch: Path) -> list[Task]:
    """The GPT-2 of the project, and the bundled prose, of which the end is held out."""
    prose = next(iter(sample("prose").items)).content
    assert isinstance(prose, str)
    train, held = scratch / "prose.train.txt", scratch / "prose.held.txt"
    cut = 9 * len(prose) // 10
    train.write_text(prose[:cut], encoding="utf-8")
    held.write_text(prose[cut:], encoding="utf-8")
    model = Path(__file__).parents[1] / "tests" / "data" / "tiny-gpt2-6x96"
    return [(model, train, held)]


@dataclass(frozen=True)
class Line:
    """One row of the table. weights: what was fitted."""

    name: str
    dropped: tuple[int, ...]
    fitted: Fitted
    seconds: float
    memory: int


class Contest:
    """One model, its calibration text and its held-out text."""

    def __init__(self, model: Path, train: Path, held: Path, tokens: int) -> None:
        self.name = model.name
        self.checkpoint = open_checkpoint(model)
        self.examination = examine(self.checkpoint)
        self.stack = choose_stack(read_stacks(self.examination))
        self.writers = block_writers(self.examination, self.stack)
        calibration = windows(model, train, tokens)
        self.held = windows(model, held, None)
        self.engine = self.on(calibration)
        sample = TextRows.of(calibration.ids[::TRIAL_SHARE].tolist(), source=train.name)
        self.sample = self.on(sample)
        self.seconds = timed(lambda: loss(self.engine))[1]
        self.original = loss(self.on(self.held))
        print(
            f"\n{self.name}: calibrated on {calibration.tokens:,} tokens of {train.name}, measured "
            f"on {len(self.held.ids)} windows of {held.name}; a pass takes {self.seconds:.1f} s"
        )

    def on(self, rows: TextRows, **options: Any) -> Blockwise:
        return Blockwise(
            options.pop("checkpoint", self.checkpoint), self.examination, self.stack, rows,
            batch_rows=16, **options,
        )  # fmt: skip

    def run(self, size: int) -> None:
        """Print the table."""
        scores, spent = timed(lambda: score_windows(self.engine, size, SCORES))
        print(f"{', '.join(SCORES)} of all windows: {spent / self.seconds:.2f} × a plain pass")
        window = scores.best("angular")
        chosen, seconds = timed(lambda: self.chosen(size, [window, scores.best("fit")]))
        added = self.loss_of(window, {}) - self.original
        header = f"{'':34}{'dropped':>12}{'loss':>9}{'perplexity':>12}{'won back':>10}"
        print(header + f"{'cost':>8}{'memory':>10}")
        self.show("original", (), self.original, added)
        self.show("plain drop", window, self.original + added, added)
        for name, dropped, options in (
            ("ReplaceMe, least squares", window, {"substitute": "replaceme", "heal": "none"}),
            (
                "ReplaceMe, cosine", window,
                {"substitute": "replaceme", "heal": "none", "objective": "cosine"},
            ),
            ("refit", window, {"substitute": "refit", "heal": "none"}),
            ("refit + sequential", window, {"substitute": "refit"}),
            ("merge + sequential", window, {"substitute": "merge"}),
            ("plain drop", chosen, {"substitute": "none", "heal": "none"}),
            ("refit + sequential", chosen, {"substitute": "refit"}),
            ("merge + sequential", chosen, {"substitute": "merge"}),
        ):  # fmt: skip
            line = self.fit(name, dropped, options)
            found = self.loss_of(dropped, line.fitted.weights)
            self.show(name, dropped, found, added, line)
        print(f"choosing {chosen} took {seconds / self.seconds:.1f} × a plain pass")

    def chosen(self, size: int, runs: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The blocks whose loss is best won back on a sample of the calibration text."""
        single = score_windows(self.sample, 1, ("loss",))
        losses = [window.scores["loss"] for window in single.windows]
        cuts = proposals(losses, size, runs)
        trials = tried(self.sample, self.writers, cuts, Plan((0,)))
        for trial in trials:
            print(f"tried {trial.dropped}: {trial.added_loss:+.4f} nats")
        return trials[0].dropped

    def fit(self, name: str, dropped: tuple[int, ...], options: dict[str, str]) -> Line:
        """One walk, with its cost."""
        plan = Plan(self.left(dropped), **options)  # type: ignore[arg-type]
        before = reset_peak()
        fitted, seconds = timed(lambda: refit_and_heal(self.engine, self.writers, plan))
        return Line(name, dropped, fitted, seconds, max(0, memory("VmHWM") - before))

    def left(self, dropped: Sequence[int]) -> tuple[int, ...]:
        return tuple(block for block in range(self.stack.depth) if block not in dropped)

    def loss_of(self, dropped: Sequence[int], weights: dict[str, torch.Tensor]) -> float:
        """Loss on the held-out text of the cut checkpoint with its new weights."""
        result, _ = set_parameters(
            self.checkpoint, self.examination.names, weights,
            surgery="substitute", contract="fitted", parameters={},
        )  # fmt: skip
        return loss(self.on(self.held, checkpoint=result, order=self.left(dropped)))

    def show(
        self,
        name: str,
        dropped: Sequence[int],
        found: float,
        added: float,
        line: Line | None = None,
    ) -> None:
        won = 1 - (found - self.original) / added
        blocks = ",".join(map(str, dropped))
        text = f"{name:34}{blocks:>12}{found:9.4f}{math.exp(found):12.2f}{won:10.1%}"
        if line is not None:
            text += f"{line.seconds / self.seconds:7.2f}×{line.memory / 2**20:7.0f} MB"
        print(text, flush=True)


def loss(engine: Blockwise) -> float:
    """Mean cross-entropy in nats per token of a plain forward pass."""
    states = engine.embedded()
    for block in engine.order:
        engine.advance(block, states)
    return float(torch.cat(engine.token_losses(states)).mean())


def windows(model: Path, text: Path, tokens: int | None) -> TextRows:
    """Windows of the context that do not overlap; of a longer text, as many as spread over it."""
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        config = transformers.AutoConfig.from_pretrained(model)
    width = min(CONTEXT, int(config.max_position_embeddings))
    rows: list[list[int]] = []
    for document in documents(text):
        with quiet():
            ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        rows += [ids[start : start + width] for start in range(0, len(ids) - width + 1, width)]
    if tokens is not None and tokens // width < len(rows):
        count = tokens // width
        rows = [rows[place * len(rows) // count] for place in range(count)]
    return TextRows.of(rows, source=text.name)


def documents(text: Path) -> list[str]:
    whole = text.read_text(encoding="utf-8")
    if text.suffix == ".jsonl":
        return [json.loads(line)["text"] for line in whole.splitlines()]
    return [whole]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the CPU seconds that it took."""
    start = time.process_time()
    return work(), time.process_time() - start


def reset_peak() -> int:
    """Start the measurement of the peak anew; bytes held now. Linux with glibc only."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or freed memory would hide what is taken next
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
