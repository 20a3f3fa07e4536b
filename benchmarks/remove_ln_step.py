"""What a step of a norm removal costs beside a plain fine-tuning step of the same model.

On a CPU: CPU seconds, the stages in turns. On CUDA, where there is one: GPT-2-small shapes under
bfloat16 autocast, tokens a second and peak memory, stage by stage.

    python benchmarks/remove_ln_step.py [MODEL] [--window N] [--steps N]

MODEL is a directory. Without it: the GPT-2 that the project ships.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers import GPT2Config, GPT2LMHeadModel

from normsurgery.anatomy.norm_paths import end_token, read_paths
from normsurgery.checkpoint import open_checkpoint
from normsurgery.train.norms.attach import attach
from normsurgery.train.run import Subject

SHIPPED = Path(__file__).parents[1] / "tests" / "data" / "tiny-gpt2-6x96"
ROWS = 16
TAUGHT = ROWS // 4  # rows that the teacher sees, as in the automatic schedule
COLD = 3  # steps that do not count
# Stage → kinds of path that are removed.
STAGES: dict[str, tuple[str, ...]] = {
    "no norm gone": (),
    "mlp and qk gone": ("mlp", "qk"),
    "all gone": ("mlp", "qk", "v", "final"),
}
Step = Callable[[], float]


@dataclass(frozen=True)
class Setting:
    """A model and one batch [rows, time] on a device. half: bfloat16 autocast."""

    subject: Subject
    batch: Tensor
    half: bool

    def load(self) -> Any:
        return self.subject.load(torch.float32).to(self.batch.device)

    def clock(self) -> float:
        """Seconds: of the device, or of the CPU."""
        if self.batch.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def stages(self) -> dict[str, Callable[[], Step]]:
        """Title → what makes the step."""
        found: dict[str, Callable[[], Step]] = {"plain": lambda: plain(self)}
        for title, kinds in STAGES.items():
            found[title] = lambda kinds=kinds: removing(self, kinds, taught=False)  # type: ignore[misc]
            found[f"{title}, with the KL"] = lambda kinds=kinds: removing(  # type: ignore[misc]
                self, kinds, taught=True
            )
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description="the cost of a step")
    parser.add_argument("model", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--window", type=int, default=128, help="tokens a row")
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    on_cpu(setting(given.model, "cpu", given.window, half=False), given.steps)
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured there")
        return
    with tempfile.TemporaryDirectory() as scratch:
        GPT2LMHeadModel(GPT2Config()).save_pretrained(scratch)
        on_cuda(setting(Path(scratch), "cuda", 1024, half=True), given.steps)


def setting(model: Path, device: str, window: int, *, half: bool) -> Setting:
    subject = Subject.of(open_checkpoint(model), trust_remote_code=False, allow_pickle=False)
    vocabulary = subject.examination.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    batch = torch.randint(0, vocabulary, (ROWS, window), generator=draw)
    return Setting(subject, batch.to(device), half)


def on_cpu(found: Setting, steps: int) -> None:
    """Print CPU time of a step at each stage over that of a plain one, in turns."""
    made = {title: make() for title, make in found.stages().items()}
    times: dict[str, list[float]] = {title: [] for title in made}
    for _ in range(steps + COLD):
        for title, step in made.items():
            times[title].append(step())
    base = median(times["plain"][COLD:])
    name = found.subject.checkpoint.directory.name
    print(f"{name}, {found.batch.numel():,} tokens, CPU, one thread: {base * 1000:.0f} ms plain")
    for title, values in times.items():
        print(f"  {title:32}{median(values[COLD:]) / base:6.2f}×")


def on_cuda(found: Setting, steps: int) -> None:
    """Print tokens a second and peak memory of each stage, and both over the plain step's."""
    print(f"GPT-2-small shapes, {found.batch.numel():,} tokens, {torch.cuda.get_device_name()}")
    first: tuple[float, float] | None = None
    for title, make in found.stages().items():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step = make()
        seconds = median([step() for _ in range(steps + COLD)][COLD:])
        pace, memory = found.batch.numel() / seconds, torch.cuda.max_memory_allocated() / 2**30
        first = first or (pace, memory)
        print(
            f"  {title:32}{pace:12,.0f} tokens/s{first[0] / pace:6.2f}×"
            f"{memory:8.2f} GiB{memory / first[1]:6.2f}×"
        )


def plain(found: Setting) -> Step:
    """A fine-tuning step of the untouched model."""
    model = found.load().train()
    return stepper(found, model, lambda: model(input_ids=found.batch, labels=found.batch).loss)


def removing(found: Setting, gone: tuple[str, ...], *, taught: bool) -> Step:
    """The same of a removal: σ̂, the auxiliary loss and perhaps a teacher on some rows."""
    model, batch = found.load(), found.batch
    teacher = found.load().requires_grad_(False) if taught else None
    paths = read_paths(found.subject.examination, model)
    removal = attach(model, paths, end=end_token(model))
    removal.observe([{"input_ids": batch}])
    removal.remove([path.name for path in paths if path.kind in gone])
    if "final" in gone:
        removal.merge("end")
        removal.merge("first")
    model.train()

    def loss() -> Tensor:
        made = model(input_ids=batch, labels=batch)
        stream = removal.stream_loss()
        total: Tensor = made.loss if stream is None else made.loss + 0.1 * stream
        if teacher is not None:
            with torch.no_grad():
                known = teacher(input_ids=batch[:TAUGHT]).logits.float()
            guess = log_softmax(made.logits[:TAUGHT].float(), -1)
            total = total + kl_div(guess, log_softmax(known, -1), reduction="sum", log_target=True)
        return total

    return stepper(found, model, loss, removal.tick)


def stepper(
    found: Setting, model: Any, loss: Callable[[], Tensor], after: Callable[[], None] | None = None
) -> Step:
    """A step that returns its seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    device = found.batch.device.type

    def step() -> float:
        started = found.clock()
        with torch.autocast(device, torch.bfloat16, enabled=found.half):
            made = loss()
        made.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if after is not None:
            after()
        return found.clock() - started

    return step


if __name__ == "__main__":
    main()
