"""What a removal of norms is made of, its document, and what a dry run says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.norm_paths import NormPath, left_norms, read_paths
from normsurgery.api.document import source_document
from normsurgery.api.removal.export import Exporter
from normsurgery.api.removal.plan import Budget, budget_of
from normsurgery.api.removal.request import RemovalRequest
from normsurgery.api.writing import Writing
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.graft.doors import one_door
from normsurgery.surgery.cast import cast, stored_dtype
from normsurgery.surgery.receipt import Receipt
from normsurgery.train.run import Subject
from normsurgery.verify.linearity import linearity
from normsurgery.version import VERSION


@dataclass(frozen=True)
class Task:
    """source: the checkpoint that gets the new values, with one way in and in the dtype asked for.

    receipts, notes: of what made it so. paths: what is removed at one time each, as the twin shows
    it. left: norm → why it stays. budget: the schedule and what a step is. exporter: how the result
    is stored. why_not_linear: why nobody can say whether the logits are a sum over blocks.
    """

    request: RemovalRequest
    subject: Subject
    writing: Writing
    source: Checkpoint
    receipts: tuple[Receipt, ...]
    notes: tuple[str, ...]
    paths: tuple[NormPath, ...]
    left: Mapping[str, str]
    budget: Budget
    exporter: Exporter
    why_not_linear: str | None = None

    @property
    def parameters(self) -> int:
        return _parameters(self.subject.checkpoint)

    @property
    def vocabulary(self) -> int:
        size: int = self.subject.examination.config.get_text_config().vocab_size
        return size


def open_task(model: Any, writing: Writing, request: RemovalRequest) -> Task:
    """Open and examine the model; everything that can be refused early is."""
    opened = writing.open_source(model)
    subject = Subject.of(
        opened, trust_remote_code=request.trust_remote_code, allow_pickle=writing.allow_pickle
    )
    examination = subject.examination
    source, notes = one_door(opened, examination.model_class)
    receipts: tuple[Receipt, ...] = ()
    if request.dtype is not None:
        source, receipt = cast(source, stored_dtype(request.dtype))
        receipts = (receipt,)
    paths = read_paths(examination, examination.twin.model, sites=request.sites)
    exporter = Exporter.of(
        source, examination, paths, request.export, trust_remote_code=request.trust_remote_code
    )
    budget = budget_of(
        request, subject, paths, parameters=_parameters(opened),
        logs=writing.output.with_name(f"{writing.output.name}.runs"),
    )  # fmt: skip
    left = left_norms(examination, sites=request.sites)
    why_not = _why_not_linear(examination)
    if why_not is not None and request.export == "graft":
        notes = (*notes, f"linearity is not measured: {why_not}")
    return Task(
        request, subject, writing, source, receipts, notes, paths, left, budget, exporter, why_not
    )  # fmt: skip


def _why_not_linear(examination: Examination) -> str | None:
    """Why the model cannot be taken apart by blocks: known from the twin, not after training."""
    twin = examination.twin
    try:
        linearity(twin.model, {"input_ids": twin.inputs["input_ids"]})
    except UnsupportedModelError as error:
        return error.message
    return None


def _parameters(checkpoint: Checkpoint) -> int:
    return sum(tensor.numel for tensor in checkpoint.values())


def described(task: Task) -> dict[str, Any]:
    """The document before anything is done."""
    request = task.request
    document = {
        "command": "remove-ln",
        "version": VERSION,
        "source": source_document(
            task.subject.checkpoint, task.subject.examination.model_class.__name__
        ),
        "output": None,
        "target": task.exporter.target(),
        "receipts": [receipt.to_dict() for receipt in task.receipts],
        "notes": list(task.notes),
        "verification": {"verdict": "skipped", "contract": request.contract},
        "export": request.export,
        "sites": list(request.sites),
        "paths": [{"path": path.name, "kind": path.kind} for path in task.paths],
        "left": dict(task.left),
    }
    if request.one_shot:
        return document
    return {
        **document,
        "schedule": task.budget.schedule.to_dict(),
        "events": [event.to_dict() for event in task.budget.plan.events],
        "estimate": task.budget.estimate(task.parameters),
        "control": {"run": task.budget.control, "why": task.budget.why},
        "taught_by": task.budget.teacher,
    }


def planned(task: Task) -> dict[str, Any]:
    """What a dry run adds: no weight is read and no text."""
    exported = task.exporter.plan(task.source)
    receipts = [*task.receipts, *exported.receipts]
    if task.request.one_shot:  # nothing makes up for the norms that are frozen
        receipts[-1] = replace(receipts[-1], contract=task.request.contract)
    else:
        steps = {"steps": task.budget.plan.steps, "tokens": task.budget.tokens}
        trained = Receipt("train", task.request.contract, steps, changed=tuple(task.source))
        receipts.insert(len(task.receipts), trained)
    return {
        "receipts": [one.to_dict() for one in receipts],
        "plan": task.writing.plan(
            task.subject.checkpoint, exported.checkpoint, receipts, task.request.contract
        ),
    }
