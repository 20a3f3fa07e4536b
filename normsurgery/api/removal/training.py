"""`remove-ln --finetune`: the control, the removal by training, and what is told on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normsurgery.api.removal.control import Control, controlled
from normsurgery.api.removal.measuring import (
    original,
    statistics_document,
    text_of,
    vocabulary_document,
)
from normsurgery.api.removal.result import Frozen, written
from normsurgery.api.removal.task import Task
from normsurgery.checkpoint import hash_files
from normsurgery.errors import UnsupportedModelError
from normsurgery.report.progress import Progress
from normsurgery.train.arguments import is_main_process, process_count
from normsurgery.train.domains import Domains
from normsurgery.train.removal.plan import Plan
from normsurgery.train.removal.run import Removed, remove_norms_by_training
from normsurgery.train.work import begin_run, check_run, end_run, last_checkpoint, work_directory

_CURVES = ("loss", "ce", "rollbacks")  # in the document, and not again in the receipt


def finetuned(task: Task, document: Mapping[str, Any]) -> dict[str, Any]:
    """Train, write, verify and publish; what this adds to the document.

    A process that is not the main one trains, and returns what it knows.
    """
    domains = text_of(task)
    work = _begin(task, domains, document["control"])
    holes, notes = vocabulary_document(task, domains.training)
    passes = task.budget.tokens / max(1, domains.training.tokens)
    added: dict[str, Any] = {
        "vocabulary": holes,
        "estimate": {**document["estimate"], "passes": passes},
        "proof": task.exporter.prove().to_dict(),
    }
    watch = _Watch(task.writing.progress, {**document, **added})
    control = controlled(task, document["control"], domains, work / "control")
    removed = _removed(task, domains, control, work / "removal", watch)
    added |= {
        "control": control.document,
        "training": _training(task, removed, domains),
        "events": [event.to_dict() for event in removed.events],
        "statistics": _statistics(task, removed),
    }
    if not removed.main:
        return added
    measured = {"original": original(task, domains), **control.measured}
    about = {key: value for key, value in added["training"].items() if key not in _CURVES}
    frozen = Frozen(
        removed.model, removed.removal, {name: removed.state[name] for name in removed.changed},
        {**about, "sites": list(task.request.sites)}, (*notes, *removed.notes), measured,
    )  # fmt: skip
    try:
        made = written(task, {**document, **added}, frozen, domains, added)
    except UnsupportedModelError as error:  # what only the trained weights show
        raise UnsupportedModelError(
            error.message, "the training is kept: --resume --export graft writes it as a graft"
        ) from error
    end_run(work)
    return made


class _Watch:
    """Hands on what the run tells; the plan first, and again where the run changed it."""

    def __init__(self, progress: Progress, document: Mapping[str, Any]) -> None:
        self._progress, self._events = progress, document["events"]
        if is_main_process():
            progress.tell("plan", document)

    def begin(self, plan: Plan) -> None:
        events = [event.to_dict() for event in plan.events]
        if events != self._events:  # the order was measured, or the run goes back and on
            self._progress.tell("plan", {"events": events})
        self._events = events

    def step(
        self, *, step: int, total: int, last_removed: str, loss: float, drift: float,
        seconds_left: float | None,
    ) -> None:  # fmt: skip
        self._progress.tell(
            "removal",
            {
                "step": step, "steps": total, "last": last_removed, "loss": loss, "drift": drift,
                "seconds_left": seconds_left,
            },
        )  # fmt: skip


def _begin(task: Task, domains: Domains, control: Mapping[str, Any]) -> Path:
    """The directory where an interrupted run waits, ready for this one."""
    work = work_directory(task.writing.output, "remove-ln")
    run = _identity(task, domains, control)
    resume = task.request.resume
    check_run(work, run, resume=resume, overwrite=task.writing.overwrite)
    if is_main_process():
        begin_run(work, run, resume=resume and work.is_dir())
    return work


def _identity(task: Task, domains: Domains, control: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for a run to be the continuation of another."""
    options = task.budget.options.to_dict()
    for name in ("save_every", "device", "gradient_checkpointing", "report_to", "logging_dir"):
        del options[name]  # these move no weight
    return {
        **options,
        "control": control["run"],
        "teacher": task.budget.teacher,
        "schedule": task.budget.schedule.to_dict(),
        "processes": process_count(),
        "text": domains.training.about["sha256"],
        "model": [file.sha256 for file in hash_files(task.subject.checkpoint.weight_files)],
    }


def _removed(
    task: Task, domains: Domains, control: Control, work: Path, watch: _Watch
) -> Removed:  # fmt: skip
    """The removal itself, from the start or from where an interrupted run got to."""
    return remove_norms_by_training(
        task.subject, control.model or task.subject, domains.training, task.budget.schedule,
        task.budget.options, work,
        reference=control.reference,
        resume_from=last_checkpoint(work) if task.request.resume else None,
        progress=task.writing.progress,
        watch=watch,
    )  # fmt: skip


def _training(task: Task, removed: Removed, domains: Domains) -> dict[str, Any]:
    return {
        "method": "norm removal",
        "steps": removed.steps,
        "tokens": removed.tokens,
        "trainable_parameters": removed.trainable_parameters,
        "text": domains.training.about,
        "teacher": task.budget.teacher,
        "retries": removed.retries,
        "rollbacks": [one.to_dict() for one in removed.rollbacks],
        "final": removed.final,
        "loss": [list(point) for point in removed.loss],
        "ce": [list(point) for point in removed.ce],
    }


def _statistics(task: Task, removed: Removed) -> list[dict[str, Any]]:
    """The scales at the end, with the step at which each path went."""
    at = {
        path: event.step
        for event in removed.events
        if event.action == "remove"
        for path in event.paths
    }
    found = statistics_document(task, removed.removal)
    return [{**one, "removed_at": at.get(one["path"])} for one in found]
