"""The control: the same training for the untouched model, measured on the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normsurgery.api.removal.measuring import measured_in_memory
from normsurgery.api.removal.task import Task
from normsurgery.train.domains import Domains
from normsurgery.train.removal.run import train_control
from normsurgery.train.work import last_checkpoint
from normsurgery.verify.losses import Measured


@dataclass(frozen=True)
class Control:
    """document: the report's part. measured: {"control": …}, empty where it did not run.

    reference: its cross-entropy at each step. model: trained, where it is the teacher.
    """

    document: dict[str, Any]
    measured: Mapping[str, Measured] = field(default_factory=dict)
    reference: Sequence[float] | None = None
    model: Any = None


def controlled(task: Task, chosen: Mapping[str, Any], domains: Domains, work: Path) -> Control:
    """Train and measure the control where it was chosen.

    A run that goes on takes it up from its last checkpoint, which is its end if it got there.
    """
    if not chosen["run"]:
        return Control(dict(chosen))
    trained = train_control(
        task.subject, domains.training, task.budget.schedule, task.budget.options, work,
        resume_from=last_checkpoint(work) if task.request.resume else None,
        progress=task.writing.progress,
    )  # fmt: skip
    about = {
        "steps": trained.steps,
        "tokens": trained.tokens,
        "final": trained.final,
        "loss": [list(point) for point in trained.loss],
    }
    measured = {"control": measured_in_memory(task, trained.model, domains)} if trained.main else {}
    teaches = task.budget.teacher == "control"
    return Control(
        {**chosen, **about}, measured, [loss for _, loss in trained.loss],
        trained.model if teaches else None,
    )  # fmt: skip
