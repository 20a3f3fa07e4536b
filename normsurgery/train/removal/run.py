"""Norms removed while the model trains, and the control that trains without a removal.

Works in several processes as transformers.Trainer does; each trains on its share of the rows.
Source: arXiv 2507.02559.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from normsurgery.anatomy.norm_paths import end_token, read_paths
from normsurgery.anatomy.runtime import quiet
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.errors import UsageError
from normsurgery.report.progress import Progress, Silent
from normsurgery.train.arguments import is_main_process
from normsurgery.train.norms.attach import Removal, attach
from normsurgery.train.options import LossWeights
from normsurgery.train.removal.clock import Clock
from normsurgery.train.removal.course import Course, Rollback
from normsurgery.train.removal.events import Event, events
from normsurgery.train.removal.guard import DivergedError, Guard, go_back
from normsurgery.train.removal.options import RemovalOptions
from normsurgery.train.removal.plan import Plan, plan_removal
from normsurgery.train.removal.schedule import Schedule
from normsurgery.train.removal.sensitivity import measure_sensitivity
from normsurgery.train.removal.trainer import batches, make_trainer, teacher_for
from normsurgery.train.removal.watch import Tells, Watcher
from normsurgery.train.run import Subject, Trained, history, ready_model, whole_state
from normsurgery.train.trainable import choose_all, trained_count, trained_names
from normsurgery.train.trainer import (
    Auxiliary,
    Extras,
    Objective,
    SurgeryTrainer,
    Teacher,
    Watch,
    read_kept,
)


@dataclass(frozen=True)
class Removed(Trained):
    """What a removal made. model: attached, every path frozen; `removal.detach()` undoes that.

    events: what was carried out, in order. retries: times the run went back. rollbacks: each
    of these. ce: cross-entropy of each step. plan: with the measured time.
    """

    removal: Removal
    events: tuple[Event, ...]
    retries: int
    rollbacks: tuple[Rollback, ...]
    ce: list[tuple[int, float]]
    plan: Plan


@dataclass(frozen=True)
class _Job:
    """What every attempt of a run shares."""

    subject: Subject
    teacher: Teacher | None
    rows: TextRows
    schedule: Schedule
    options: RemovalOptions
    work: Path
    reference: Sequence[float] | None
    progress: Progress
    watch: Watcher | None


def remove_norms_by_training(
    subject: Subject,
    teacher: Subject | nn.Module | None,
    rows: TextRows,
    schedule: Schedule,
    options: RemovalOptions,
    work: Path,
    *,
    reference: Sequence[float] | None = None,
    resume_from: Path | None = None,
    progress: Progress | None = None,
    watch: Watcher | None = None,
) -> Removed:
    """Fine-tune on rows of text while the norms of `options.sites` go as the schedule says.

    teacher: for a schedule with a KL; a model in memory is frozen. work: where checkpoints are
    kept. reference: the control's cross-entropy at each step; None: this run's own before the
    first removal. resume_from: one of the checkpoints; the result has the bits of an
    uninterrupted run. A run that diverges goes back to before the removal that did it, with
    longer gaps.
    Raises UnsupportedModelError where no norm can go, UsageError where schedule, rows or checkpoint
    do not fit, SurgeryError where the run diverges again and again.
    """
    job = _Job(
        subject, teacher_for(teacher, schedule), rows, schedule, options, work, reference,
        progress or Silent(), watch,
    )  # fmt: skip
    course = None if resume_from is None else _course_of(resume_from, schedule)
    start = resume_from
    while True:
        attempt = _Attempt(job, course)
        try:
            return attempt.run(start)
        except DivergedError as failure:
            course, start = go_back(attempt.course, failure, schedule, work, options.retries)


def train_control(
    subject: Subject,
    rows: TextRows,
    schedule: Schedule,
    options: RemovalOptions,
    work: Path,
    *,
    resume_from: Path | None = None,
    progress: Progress | None = None,
    watch: Watcher | None = None,
) -> Trained:
    """The same fine-tuning of the untouched model: rows, order, rates, clip, decay.

    Its loss is cross-entropy alone: `loss` is the reference of a removal, `model` may be its
    teacher. Resumed from its last checkpoint, a finished run gives its result again.
    """
    model = ready_model(subject, options.training(schedule, schedule.steps))
    notes = choose_all(model)
    changed, count = trained_names(model), trained_count(model)
    trainer = make_trainer(
        model, rows, schedule, options, work, steps=schedule.steps,
        objective=Objective(weights=lambda step: LossWeights(kl=0.0)), teacher=None,
        extras=Extras(horizon=schedule.horizon),
    )  # fmt: skip
    _train(trainer, [Tells(watch, None)], resume_from, progress or Silent(), "control")
    return Trained(
        state=whole_state(trainer), changed=tuple(changed), trainable_parameters=count,
        notes=notes, model=trainer.model.eval(), main=trainer.is_world_process_zero(),
        **history(trainer.state),
    )  # fmt: skip


class _Attempt:
    """One try of a run, from the start or a checkpoint to its end."""

    def __init__(self, job: _Job, course: Course | None) -> None:
        self._job = job
        options, schedule = job.options, job.schedule
        steps = schedule.steps if course is None else course.steps
        model = ready_model(job.subject, options.training(schedule, steps))
        choose_all(model)
        self._paths = read_paths(job.subject.examination, model, sites=options.sites)
        self._removal = attach(model, self._paths, decay=schedule.decay, end=end_token(model))
        self.course = course or self._first_course()

    def _first_course(self) -> Course:
        """As the schedule says. One by sensitivity gets its order once there are statistics."""
        job, order = self._job, self._job.options.order
        if job.schedule.order == "sensitivity" and order is None:
            size = job.options.batch_size
            self._removal.observe(batches(job.rows, job.options.calibration_rows, size))
            found = measure_sensitivity(
                self._removal, job.rows, count=job.options.sensitivity_rows,
                batch_size=size,
            )  # fmt: skip
            order = tuple(sorted(found, key=found.__getitem__))
        ends = self._removal.end is not None
        planned = events(job.schedule, self._paths, order=order, end=ends)
        return Course(planned, job.schedule.steps)

    def run(self, start: Path | None) -> Removed:
        """Train to the end. DivergedError where it goes wrong."""
        job, model = self._job, self._removal.model
        changed, count = trained_names(model), trained_count(model)
        clock = Clock(self._removal, job.schedule, self.course)
        trainer = self._trainer(clock)
        if start is None:
            size = job.options.batch_size
            self._removal.observe(batches(job.rows, job.options.calibration_rows, size))
        plan = self._plan()
        if job.watch is not None and is_main_process():
            job.watch.begin(plan)
        tells = Tells(job.watch, clock)
        _train(trainer, [clock, Guard(self.course, job.reference), tells], start, job.progress)
        log = trainer.state.log_history
        return Removed(
            state=whole_state(trainer), changed=tuple(changed), trainable_parameters=count,
            notes=self.course.notes, model=model.eval(), main=trainer.is_world_process_zero(),
            removal=self._removal, events=tuple(clock.carried), retries=self.course.retries,
            rollbacks=self.course.rollbacks,
            ce=[(int(entry["step"]), float(entry["ce"])) for entry in log if "ce" in entry],
            plan=replace(plan, seconds=tells.seconds), **history(trainer.state),
        )  # fmt: skip

    def _trainer(self, clock: Clock) -> SurgeryTrainer:
        job = self._job
        schedule, options = job.schedule, job.options
        term = Auxiliary(schedule.auxiliary, self._removal.stream_loss)
        objective = Objective(
            weights=lambda step: schedule.weights(step, options.temperature),
            auxiliary=term if schedule.auxiliary else None,
            kl_rows=schedule.kl_rows,
            measure_ce=True,
        )
        extras = Extras(kept=clock, figures=clock.figures, horizon=schedule.horizon)
        return make_trainer(
            self._removal.model, job.rows, schedule, options, job.work, steps=self.course.steps,
            objective=objective, teacher=job.teacher, extras=extras,
        )  # fmt: skip

    def _plan(self) -> Plan:
        job = self._job
        return plan_removal(
            job.subject, job.schedule, job.options, row_length=job.rows.ids.shape[1],
            teacher=job.teacher is not None, planned=self.course.events, steps=self.course.steps,
        )  # fmt: skip


def _train(
    trainer: SurgeryTrainer,
    callbacks: Sequence[TrainerCallback],
    start: Path | None,
    progress: Progress,
    name: str = "train",
) -> None:
    total = trainer.args.max_steps
    with progress.task(name, total if is_main_process() else None, "steps") as advance, quiet():
        for callback in (*callbacks, Watch(advance)):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(start) if start else None)


def _course_of(checkpoint: Path, schedule: Schedule) -> Course:
    """The course that a checkpoint was on. UsageError where it had another schedule."""
    kept: Mapping[str, Any] = read_kept(checkpoint)
    before, now = kept.get("schedule", {}), schedule.to_dict()
    differing = sorted(key for key in {**before, **now} if before.get(key) != now.get(key))
    if differing:
        raise UsageError(
            f"the interrupted run had another schedule: {', '.join(differing)}",
            "give the same schedule again, or leave --resume out and pass --overwrite",
        )
    return Course.from_dict(kept["course"])
