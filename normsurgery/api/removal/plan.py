"""What a removal by training takes: the schedule for a budget, how a step is made, the control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from normsurgery.anatomy.norm_paths import NormPath
from normsurgery.api.removal.request import FINETUNE_TOKENS, RemovalRequest, TeacherName
from normsurgery.calibrate.text.sources import row_length
from normsurgery.train.arguments import process_count
from normsurgery.train.removal.options import RemovalOptions
from normsurgery.train.removal.plan import Plan, plan_removal
from normsurgery.train.removal.schedule import Schedule
from normsurgery.train.removal.schedule_file import load_schedule
from normsurgery.train.run import Subject

LITTLE_FLOPS = 1e16  # what a control may cost without being asked for: a GPU's minutes
_FORWARD_BACKWARD = 6  # operations a parameter and a token (arXiv 2001.08361)
_HALF = (0.5, 0.5)  # of cross-entropy and of the KL, from the first step to the last
_NONE = (0.0, 0.0)


@dataclass(frozen=True)
class Budget:
    """schedule: with the rate and the weights that were asked for. row: tokens a row.

    options: of the run, for the trainer. plan: what it comes to. control: whether the untouched
    model gets the same training; why: or why not. teacher: whose predictions the KL looks at.
    """

    schedule: Schedule
    options: RemovalOptions
    row: int
    plan: Plan
    control: bool
    why: str
    teacher: TeacherName

    @property
    def tokens(self) -> int:
        """Of the whole run, over all processes."""
        return self.plan.tokens

    def flops(self, parameters: int) -> float:
        """Of the whole run, forward and backward."""
        return float(_FORWARD_BACKWARD * parameters * self.tokens)

    def estimate(self, parameters: int) -> dict[str, Any]:
        """The document's `estimate`. passes: over the text, known once it is read."""
        return {
            "steps": self.plan.steps,
            "tokens": self.tokens,
            "tokens_per_step": self.options.rows_per_step(process_count()) * self.row,
            "row": self.row,
            "passes": None,
            "flops": self.flops(parameters),
            "memory_bytes": sum(self.plan.memory.values()),
        }


def budget_of(
    request: RemovalRequest,
    subject: Subject,
    paths: Sequence[NormPath],
    *,
    parameters: int,
    logs: Path,
) -> Budget:
    """The schedule for what was asked, and how a step of it is made of batches.

    Where --gradient-accumulation is not given, a schedule that states the tokens of its step gets
    as many batches as make them. logs: where `report_to` writes.
    """
    directory = subject.checkpoint.directory
    row = row_length(directory, request.max_length, trust_remote_code=request.trust_remote_code)
    batch = row * request.batch_size * process_count()
    given = request.gradient_accumulation
    schedule = load_schedule(
        request.schedule,
        parameters=parameters,
        tokens=request.tokens or FINETUNE_TOKENS,
        tokens_per_step=batch * (given or 1),
        paths=paths,
    )
    stated = schedule.tokens_per_step
    options = RemovalOptions(
        batch_size=request.batch_size,
        gradient_accumulation=given or (max(1, round(stated / batch)) if stated else 1),
        bf16=request.bf16,
        gradient_checkpointing=request.gradient_checkpointing,
        sites=request.sites,
        save_every=request.save_every,
        seed=request.seed,
        device=request.device,
        report_to=request.report_to,
        logging_dir=None if request.report_to == "none" else logs,
    )
    tokens = schedule.steps * options.rows_per_step(process_count()) * row
    control, why = control_choice(request, float(_FORWARD_BACKWARD * parameters * tokens))
    teacher = _teacher(request, schedule, control)
    schedule = _with_rate(_taught(schedule, teacher), request.lr)
    plan = plan_removal(subject, schedule, options, row_length=row, teacher=teacher != "none")
    return Budget(schedule, options, row, plan, control, why, teacher)


def _teacher(request: RemovalRequest, schedule: Schedule, control: bool) -> TeacherName:
    """The one asked for; else the control where `auto` has one, else what the schedule needs."""
    if request.teacher is not None:
        return request.teacher
    if request.schedule == "auto":
        return "control" if control else "none"
    return "original" if schedule.needs_teacher else "none"


def _taught(schedule: Schedule, teacher: TeacherName) -> Schedule:
    """With a KL where there is a teacher, half of the loss where the schedule has none."""
    if teacher == "none":
        started, ended = (ce if ce else 1.0 for ce in schedule.ce)
        return replace(schedule, kl=_NONE, ce=(started, ended))
    if schedule.needs_teacher:
        return schedule
    return replace(schedule, ce=_HALF, kl=_HALF)


def _with_rate(schedule: Schedule, rate: float | None) -> Schedule:
    """With the highest rate that was asked for, and the lowest in proportion."""
    if rate is None:
        return schedule
    least = schedule.min_learning_rate * rate / schedule.learning_rate
    return replace(schedule, learning_rate=rate, min_learning_rate=least)


def control_choice(request: RemovalRequest, flops: float) -> tuple[bool, str]:
    """Whether the untouched model gets the same training, and why."""
    if request.control is not None:
        return request.control, "as asked"
    if request.teacher == "control":
        return True, "it is the teacher"
    little = flops <= LITTLE_FLOPS
    word = "no more than" if little else "more than"
    return little, f"it costs {flops:.1e} operations, {word} {LITTLE_FLOPS:.0e}"
