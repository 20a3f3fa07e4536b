"""What a removal by training takes: the schedule for a budget, tokens, operations, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.api.removal_request import FINETUNE_TOKENS, RemovalRequest
from normsurgery.calibrate.text.sources import row_length
from normsurgery.train.norms.paths import NormPath
from normsurgery.train.removal.events import Event, events
from normsurgery.train.removal.schedule import Schedule
from normsurgery.train.removal.schedule_file import load_schedule
from normsurgery.train.run import process_count

LITTLE_FLOPS = 1e16  # what a control may cost without being asked for: a GPU's minutes
_STATE_BYTES = 16  # a parameter: weight, gradient and two moments of Adam in float32
_FORWARD_BACKWARD = 6  # operations a parameter and a token (arXiv 2001.08361)
_ACTIVATION = 34  # values kept a token, a channel and a block, 2 bytes each (arXiv 2205.05198)


@dataclass(frozen=True)
class Budget:
    """schedule: with its rate as asked. row: tokens a row. accumulation: batches a step."""

    schedule: Schedule
    events: tuple[Event, ...]
    row: int
    batch_size: int
    accumulation: int
    processes: int

    @property
    def tokens_per_step(self) -> int:
        return self.row * self.batch_size * self.accumulation * self.processes

    @property
    def tokens(self) -> int:
        """Of the whole run."""
        return self.tokens_per_step * self.schedule.steps

    def flops(self, parameters: int) -> float:
        """Of the whole run, forward and backward."""
        return float(_FORWARD_BACKWARD * parameters * self.tokens)


def budget_of(
    request: RemovalRequest, directory: Path, paths: Sequence[NormPath], parameters: int
) -> Budget:
    """The schedule for what was asked, and how a step of it is made of batches.

    Where --gradient-accumulation is not given, a schedule that states the tokens of its step gets
    as many batches as make them.
    """
    row = row_length(directory, request.max_length, trust_remote_code=request.trust_remote_code)
    processes = process_count()
    batch = row * request.batch_size * processes
    given = request.gradient_accumulation
    schedule = load_schedule(
        request.schedule,
        parameters=parameters,
        tokens=request.tokens or FINETUNE_TOKENS,
        tokens_per_step=batch * (given or 1),
        paths=paths,
    )
    stated = schedule.tokens_per_step
    accumulation = given or (max(1, round(stated / batch)) if stated else 1)
    if request.lr is not None:
        factor = request.lr / schedule.learning_rate
        schedule = replace(
            schedule,
            learning_rate=request.lr,
            min_learning_rate=schedule.min_learning_rate * factor,
        )
    return Budget(
        schedule, tuple(events(schedule, paths)), row, request.batch_size, accumulation, processes
    )  # fmt: skip


def control_choice(request: RemovalRequest, flops: float) -> tuple[bool, str]:
    """Whether the untouched model gets the same training, and why."""
    if request.control is not None:
        return request.control, "as asked"
    if request.teacher == "control":
        return True, "it is the teacher"
    little = flops <= LITTLE_FLOPS
    word = "little, at most" if little else "more than"
    return little, f"it costs {flops:.1e} operations, {word} {LITTLE_FLOPS:.0e}"


def estimate(budget: Budget, parameters: int, examination: Examination) -> dict[str, Any]:
    """The document's `estimate`. passes: over the text, known once it is read."""
    return {
        "steps": budget.schedule.steps,
        "tokens": budget.tokens,
        "tokens_per_step": budget.tokens_per_step,
        "row": budget.row,
        "passes": None,
        "flops": budget.flops(parameters),
        "memory_bytes": memory_estimate(budget, parameters, examination),
    }


def memory_estimate(budget: Budget, parameters: int, examination: Examination) -> int:
    """Bytes on a device: state of Adam in float32, and a batch's activations and logits.

    Without recomputation, attention not stored as a matrix; logits, their softmax and gradient.
    """
    config = examination.config.get_text_config()
    tokens = budget.row * budget.batch_size
    blocks = int(getattr(config, "num_hidden_layers", 1) or 1)
    width = int(getattr(config, "hidden_size", 0) or 0)
    activations = 2 * _ACTIVATION * blocks * width * tokens  # twice 2 bytes: float32
    logits = 3 * 4 * int(config.vocab_size) * tokens
    return _STATE_BYTES * parameters + activations + logits
