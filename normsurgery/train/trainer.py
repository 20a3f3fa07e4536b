"""transformers.Trainer with the losses of this package, and what it tells while it runs.

Its own checkpoints hold the parameters that train, and what the run itself asks to keep, and
nothing else: they are small, they do not depend on how a family stores its weights, and they are
loaded back strictly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerState

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
_KEPT = "kept.json"


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


class Kept(Protocol):
    """What a run keeps in its checkpoints beside the weights, as JSON values."""

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Auxiliary:
    """A term of the loss, a mean over tokens, that a forward pass leaves to be fetched.

    term: of the forward pass just done; None where there is none.
    """

    weight: float
    term: Callable[[], Tensor | None]


@dataclass(frozen=True)
class Objective:
    """What a run minimizes.

    weights: by optimizer steps done. kl_rows: share of each batch's rows, the first ones, that the
    teacher sees (1: all); the divergence is the mean over their tokens. measure_ce: note the
    cross-entropy at every step, also where its weight is 0.
    """

    weights: Callable[[int], LossWeights]
    auxiliary: Auxiliary | None = None
    kl_rows: float = 1.0
    measure_ce: bool = False


@dataclass(frozen=True)
class Extras:
    """What a run adds to the Trainer.

    kept: what its checkpoints hold besides. figures: what each step's log says besides.
    horizon: steps that the learning rate's curve is made for, where they are more than the run's.
    """

    kept: Kept | None = None
    figures: Callable[[], Mapping[str, float]] = field(default=dict)
    horizon: int = 0


class SurgeryTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is the objective's sum, normalised by the tokens of the whole step."""

    def __init__(
        self,
        *,
        objective: Objective,
        taps: Taps,
        teacher: Teacher | None,
        extras: Extras | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._objective, self._taps, self._teacher = objective, taps, teacher
        self._extras = extras or Extras()
        # The loss below divides by the tokens of all accumulated batches and processes itself.
        self.model_accepts_loss_kwargs = True
        self._parts: dict[str, Tensor] = {}
        self._tokens: Tensor | int = 0
        self.remove_callback(PrinterCallback)
        if teacher is not None:
            teacher.model.to(self.args.device)

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> Any:
        """Train, or go on. A run that was stopped after its last step is taken up as it ended.

        (The library's own loop takes one more step before it sees that there is none to take.)
        """
        if resume_from_checkpoint is None:
            return super().train(**options)
        file = Path(resume_from_checkpoint) / TRAINER_STATE_NAME
        state = TrainerState.load_from_json(str(file))
        if state.global_step < self.args.max_steps:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        self._load_from_checkpoint(resume_from_checkpoint)
        self.state = state
        return None

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices only: norms and biases are vectors, whatever their modules are called."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """The curve of the learning rate, over the horizon where that is longer."""
        return super().create_scheduler(max(num_training_steps, self._extras.horizon), optimizer)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """A share of the step's loss: its mean over processes, summed over batches, is the loss."""
        weights = self._objective.weights(self.state.global_step)
        labels = inputs.pop("labels")
        counted = (labels[:, 1:] != IGNORED).sum()
        total = counted if num_items_in_batch is None else num_items_in_batch
        with self._taps.taken() as streams:
            outputs = model(**inputs)
        sums = self._sums(weights, outputs.logits, labels, streams, inputs)
        factors = {name: getattr(weights, name) for name in sums}
        auxiliary = self._objective.auxiliary
        if auxiliary is not None and (term := auxiliary.term()) is not None:
            sums["aux"], factors["aux"] = term * counted, auxiliary.weight
        scale = self.accelerator.num_processes / total
        loss = torch.stack([factors[name] * part for name, part in sums.items() if factors[name]])
        self._note({name: part.detach() * scale for name, part in sums.items()}, total)
        weighed = loss.sum() * scale
        return (weighed, outputs) if return_outputs else weighed

    def _sums(
        self,
        weights: LossWeights,
        logits: Tensor,
        labels: Tensor,
        streams: dict[int, Tensor],
        inputs: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Each part of the loss that has a weight, summed over the batch's tokens."""
        sums: dict[str, Tensor] = {}
        guess = predictions(logits, labels)
        if weights.ce or self._objective.measure_ce:
            with nullcontext() if weights.ce else torch.no_grad():
                sums["ce"] = cross_entropy(guess, labels[labels != IGNORED])
        if self._teacher is None or not weights.needs_teacher:
            return sums
        share = 1.0 if weights.hidden else self._objective.kl_rows
        rows = max(1, math.ceil(share * len(labels)))
        known, wanted = self._teacher.watch({name: part[:rows] for name, part in inputs.items()})
        if weights.kl:
            taught = predictions(known.to(guess.device), labels[:rows])
            apart = divergence(guess[: len(taught)], taught, weights.temperature)
            sums["kl"] = apart * (len(guess) / max(1, len(taught)))
        if weights.hidden:
            real = labels != IGNORED  # without pads and position 0, where massive activations sit
            errors = [stream_error(streams[i][real], wanted[i][real]) for i in sorted(wanted)]
            sums["hidden"] = torch.stack(errors).mean()
        return sums

    def _note(self, parts: Mapping[str, Tensor], tokens: Tensor | int) -> None:
        for name, value in parts.items():
            self._parts[name] = self._parts.get(name, torch.zeros_like(value)) + value
        self._tokens = tokens

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Every step's losses apart, over all processes, its tokens, and what the run adds."""
        if "loss" in logs and self._parts:
            parts = torch.stack([value.float() for value in self._parts.values()])
            if self.accelerator.num_processes > 1:
                parts = self.accelerator.reduce(parts, "mean")
            logs |= dict(zip(self._parts, parts.tolist(), strict=True))
            logs["tokens"] = int(self._tokens)
            logs |= self._extras.figures()
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
        if self._extras.kept is not None:
            text = json.dumps(self._extras.kept.state(), indent=1)
            (directory / _KEPT).write_text(text + "\n", encoding="utf-8")

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
        if self._extras.kept is not None:
            self._extras.kept.restore(read_kept(Path(resume_from_checkpoint)))


def read_kept(checkpoint: Path) -> dict[str, Any]:
    """What a run kept in one of its checkpoints. UsageError where there is nothing of the kind."""
    try:
        kept: dict[str, Any] = json.loads((checkpoint / _KEPT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{checkpoint.name} is no checkpoint of this kind of run: {error}",
            "leave --resume out and pass --overwrite to start again",
        ) from error
    return kept


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
