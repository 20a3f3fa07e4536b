"""transformers.Trainer with the losses of healing, and what it tells while it runs.

Its own checkpoints hold the parameters that train and nothing else: they are small, they do not
depend on how a family stores its weights, and they are loaded back strictly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from normsurgery.errors import SurgeryError, UsageError
from normsurgery.report.progress import Advance
from normsurgery.train.losses import (
    IGNORED,
    cross_entropy,
    divergence,
    predictions,
    stream_error,
)
from normsurgery.train.options import LossWeights
from normsurgery.train.taps import Taps

_TRAINED = "trained.safetensors"


@dataclass(frozen=True)
class Teacher:
    """The original, frozen and in its own dtype.

    taps: on the blocks whose outputs the student's tapped blocks should have, in the same order.
    """

    model: Any
    taps: Taps

    def watch(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits and tapped streams of a batch. No inference mode: autograd reads the results."""
        with torch.no_grad(), torch.autocast(inputs["input_ids"].device.type, enabled=False):
            with self.taps.taken() as streams:
                logits: Tensor = self.model(**inputs).logits
        return logits, streams


class HealTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is `weights`' sum, normalised by the tokens of the whole step."""

    def __init__(
        self, *, weights: LossWeights, taps: Taps, teacher: Teacher | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._weights, self._taps, self._teacher = weights, taps, teacher
        # The loss below divides by the tokens of all accumulated batches and processes itself.
        self.model_accepts_loss_kwargs = True
        self._parts: dict[str, Tensor] = {}
        self._tokens = 0
        self.remove_callback(PrinterCallback)
        if teacher is not None:
            teacher.model.to(self.args.device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """A share of the step's loss: its mean over processes, summed over batches, is the loss."""
        labels = inputs.pop("labels")
        counted = labels[:, 1:] != IGNORED
        total = counted.sum() if num_items_in_batch is None else num_items_in_batch
        with self._taps.taken() as streams:
            outputs = model(**inputs)
        sums = self._sums(outputs.logits, labels, streams, inputs)
        scale = self.accelerator.num_processes / total
        loss = torch.stack([getattr(self._weights, name) * part for name, part in sums.items()])
        self._note({name: part.detach() * scale for name, part in sums.items()}, int(total))
        weighed = loss.sum() * scale
        return (weighed, outputs) if return_outputs else weighed

    def _sums(
        self, logits: Tensor, labels: Tensor, streams: dict[int, Tensor], inputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Each part of the loss that has a weight, summed over the batch's tokens."""
        sums: dict[str, Tensor] = {}
        guess = predictions(logits, labels)
        if self._weights.ce:
            sums["ce"] = cross_entropy(guess, labels[labels != IGNORED])
        if self._teacher is None or not self._weights.needs_teacher:
            return sums
        known, wanted = self._teacher.watch(inputs)
        if self._weights.kl:
            taught = predictions(known.to(guess.device), labels)
            sums["kl"] = divergence(guess, taught, self._weights.temperature)
        if self._weights.hidden:
            real = labels != IGNORED  # without pads and position 0, where massive activations sit
            errors = [stream_error(streams[i][real], wanted[i][real]) for i in sorted(wanted)]
            sums["hidden"] = torch.stack(errors).mean()
        return sums

    def _note(self, parts: Mapping[str, Tensor], tokens: int) -> None:
        for name, value in parts.items():
            self._parts[name] = self._parts.get(name, torch.zeros_like(value)) + value
        self._tokens = tokens

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Every step's losses apart, and its tokens; of this process, the sum of all."""
        if "loss" in logs:
            logs |= {name: float(value) for name, value in self._parts.items()}
            logs["tokens"] = self._tokens
            self._parts = {}
        super().log(logs, start_time)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        if not self.args.should_save:
            return
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        kept = _trained(self.model)
        if state_dict is not None:  # gathered from several processes
            kept = {name: state_dict[name] for name in kept}
        copies = {name: value.detach().cpu().contiguous() for name, value in kept.items()}
        save_file(copies, directory / _TRAINED)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        stored = load_file(Path(resume_from_checkpoint) / _TRAINED)
        wanted = _trained(self.model if model is None else model)
        if {n: t.shape for n, t in stored.items()} != {n: t.shape for n, t in wanted.items()}:
            raise UsageError(
                "the interrupted run trained other parameters than this one",
                "leave --resume out and pass --overwrite to start again",
            )
        with torch.no_grad():
            for name, parameter in wanted.items():
                parameter.copy_(stored[name])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


class Watch(TrainerCallback):  # type: ignore[misc]
    """Tells the progress with the loss, and stops a run whose loss or gradient is not finite."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._shown = 0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            value = logs.get(name, 0.0)
            if not math.isfinite(value):
                raise SurgeryError(
                    f"training stopped at step {state.global_step}: its {name} is {value}",
                    "a smaller --lr, or --no-bf16; nothing was written",
                )
        # after a resumption the steps already done are shown at once
        self._advance(state.global_step - self._shown, f"loss {logs['loss']:.4f}")
        self._shown = state.global_step
