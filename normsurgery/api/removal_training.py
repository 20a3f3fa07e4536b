"""`remove-ln --finetune`: the control, the removal by training, and what is told on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normsurgery.api.removal import Task
from normsurgery.api.removal_control import Control, controlled
from normsurgery.api.removal_measuring import (
    original,
    statistics_document,
    text_of,
    vocabulary_document,
)
from normsurgery.api.removal_result import Frozen, written
from normsurgery.checkpoint import hash_files
from normsurgery.train.arguments import is_main_process
from normsurgery.train.domains import Domains
from normsurgery.train.removal.run import Removed, remove_norms_by_training
from normsurgery.train.run import Subject
from normsurgery.train.work import begin_run, check_run, end_run, last_checkpoint, work_directory


def finetuned(task: Task, document: Mapping[str, Any]) -> dict[str, Any]:
    """Train, write, verify and publish; what this adds to the document.

    A process that is not the main one trains, and returns what it knows.
    """
    domains = text_of(task)
    holes, notes = vocabulary_document(task, domains.training)
    passes = task.budget.tokens / max(1, domains.training.tokens)
    added: dict[str, Any] = {
        "vocabulary": holes,
        "estimate": {**document["estimate"], "passes": passes},
        "proof": task.exporter.prove(),
    }
    if is_main_process():
        task.writing.progress.tell("plan", {**document, **added})
    work = _begin(task, domains)
    control = controlled(task, document["control"], domains, work / "control")
    removed = _removed(task, domains, control, work / "removal")
    added |= {
        "control": control.document,
        "training": _training(task, removed, domains),
        "events": [event.to_dict() for event in removed.events],
        "statistics": _statistics(task, removed),
    }
    if not removed.main:
        return added
    measured = {"original": original(task, domains), **control.measured}
    about = {key: value for key, value in added["training"].items() if key != "loss"}
    frozen = Frozen(
        removed.model, removed.removal, {name: removed.state[name] for name in removed.changed},
        {**about, "sites": list(task.request.sites)}, (*notes, *removed.notes), measured,
    )  # fmt: skip
    made = written(task, {**document, **added}, frozen, domains, added)
    end_run(work)
    return made


def _begin(task: Task, domains: Domains) -> Path:
    """The directory where an interrupted run waits, ready for this one."""
    work = work_directory(task.writing.output, "remove-ln")
    run = _identity(task, domains)
    resume = task.request.resume
    check_run(work, run, resume=resume, overwrite=task.writing.overwrite)
    if is_main_process():
        begin_run(work, run, resume=resume and work.is_dir())
    return work


def _identity(task: Task, domains: Domains) -> dict[str, Any]:
    """What must be the same for a run to be the continuation of another."""
    request = task.request
    same = ("sites", "teacher", "bf16", "batch_size", "seed", "dtype")
    return {
        **{name: getattr(request, name) for name in same},
        "control": task.control.run,
        "schedule": task.budget.schedule.to_dict(),
        "accumulation": task.budget.accumulation,
        "processes": task.budget.processes,
        "text": domains.training.about["sha256"],
        "model": [file.sha256 for file in hash_files(task.subject.checkpoint.weight_files)],
    }


def _removed(task: Task, domains: Domains, control: Control, work: Path) -> Removed:
    """The removal itself, from the start or from where an interrupted run got to."""
    progress = task.writing.progress
    return remove_norms_by_training(
        task.subject, _teacher(task, control), domains.training, task.budget.schedule,
        task.options, work,
        sites=task.request.sites,
        reference=control.reference,
        resume_from=last_checkpoint(work) if task.request.resume else None,
        progress=progress,
        watch=lambda facts: progress.tell("removal", facts),
    )  # fmt: skip


def _teacher(task: Task, control: Control) -> Subject | None:
    """Whose predictions the model is held to; None where the schedule gives them no weight."""
    if task.request.teacher == "none":
        return None
    return control.subject if task.request.teacher == "control" else task.subject


def _training(task: Task, removed: Removed, domains: Domains) -> dict[str, Any]:
    return {
        "method": "norm removal",
        "steps": removed.steps,
        "tokens": removed.tokens,
        "text": domains.training.about,
        "teacher": task.request.teacher or "original",
        "retries": list(removed.retries),
        "final": removed.final,
        "loss": [list(point) for point in removed.loss],
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
