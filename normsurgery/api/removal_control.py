"""The control: the same training for the untouched model, measured on the same text.

What it gave is kept beside the run, so that a run that goes on need not train it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from normsurgery.api.removal import Task
from normsurgery.api.removal_measuring import measured_in_memory
from normsurgery.checkpoint import open_checkpoint, write_weights
from normsurgery.surgery.set_parameters import set_parameters
from normsurgery.train.arguments import is_main_process
from normsurgery.train.domains import Domains
from normsurgery.train.removal.run import train_control
from normsurgery.train.run import Subject, Trained
from normsurgery.train.work import last_checkpoint
from normsurgery.verify.losses import Measured

_DONE, _LOSSES, _MODEL = "control.json", "losses.safetensors", "model"


@dataclass(frozen=True)
class Control:
    """document: the report's part. measured: {"control": …}, empty where it did not run.

    reference: the loss of each step. subject: the trained control as a checkpoint, where it is the
    teacher.
    """

    document: dict[str, Any]
    measured: Mapping[str, Measured] = field(default_factory=dict)
    reference: Sequence[float] | None = None
    subject: Subject | None = None


def controlled(
    task: Task, chosen: Mapping[str, Any], domains: Domains, work: Path
) -> Control:
    """Train and measure the control where it was chosen, or read what an earlier run left of it."""
    if not chosen["run"]:
        return Control(dict(chosen))
    if not (task.request.resume and (work / _DONE).is_file()):
        _train(task, domains, work)
    _wait_for_all()
    kept = json.loads((work / _DONE).read_text(encoding="utf-8"))
    losses = load_file(work / _LOSSES)
    measured = Measured(
        {name: losses[str(i)] for i, name in enumerate(domains.measured)}, kept.pop("samples")
    )
    subject = None
    if task.request.teacher == "control":
        subject = Subject.of(
            open_checkpoint(work / _MODEL), trust_remote_code=task.request.trust_remote_code,
            allow_pickle=False,
        )  # fmt: skip
    reference = [loss for _, loss in kept["loss"]]
    return Control({**chosen, **kept}, {"control": measured}, reference, subject)


def _train(task: Task, domains: Domains, work: Path) -> None:
    """Train it; the main process measures it and keeps what there is to keep, `_DONE` last."""
    trained = train_control(
        task.subject, domains.training, task.budget.schedule, task.options, work,
        resume_from=last_checkpoint(work) if task.request.resume else None,
        progress=task.writing.progress,
    )  # fmt: skip
    if not is_main_process():
        return
    measured = measured_in_memory(task, trained.model, domains)
    losses = {str(i): measured.losses[name] for i, name in enumerate(domains.measured)}
    save_file(losses, work / _LOSSES)
    if task.request.teacher == "control":
        _save_model(task, trained, work / _MODEL)
    kept = {
        "steps": trained.steps,
        "tokens": trained.tokens,
        "final": trained.final,
        "loss": [list(point) for point in trained.loss],
        "samples": measured.continued,
    }
    partial = work / f"{_DONE}.partial"
    partial.write_text(json.dumps(kept), encoding="utf-8")
    partial.replace(work / _DONE)


def _save_model(task: Task, trained: Trained, directory: Path) -> None:
    """The trained control as a checkpoint in the source's own names."""
    values = {name: trained.state[name] for name in trained.changed}
    result, _ = set_parameters(
        task.subject.checkpoint, task.subject.examination.names, values,
        surgery="train", contract="trained", parameters={},
    )  # fmt: skip
    directory.mkdir(exist_ok=True)
    write_weights(result, directory, hashes=False)


def _wait_for_all() -> None:
    """Of several processes: until the main one has written."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
