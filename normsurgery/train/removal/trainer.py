"""The Trainer of a removal, and of its control."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from normsurgery.anatomy.runtime import quiet
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.errors import UsageError
from normsurgery.train.arguments import is_main_process, training_arguments
from normsurgery.train.data import RowsDataset, collate
from normsurgery.train.removal.options import RemovalOptions
from normsurgery.train.removal.schedule import Schedule
from normsurgery.train.run import Subject
from normsurgery.train.taps import Taps
from normsurgery.train.trainer import Extras, Objective, SurgeryTrainer, Teacher

# A run that diverges goes back to before the removal that did it: a checkpoint or two.
_KEPT_CHECKPOINTS = 3


def make_trainer(
    model: Any,
    rows: TextRows,
    schedule: Schedule,
    options: RemovalOptions,
    work: Path,
    *,
    steps: int,
    objective: Objective,
    teacher: Teacher | None,
    extras: Extras,
) -> SurgeryTrainer:
    """A Trainer with the schedule's optimizer and learning rates, over so many steps.

    Rows come in the order that the options' seed makes, whatever trains on them.
    """
    reporter, writers = _reporters(options)
    arguments = training_arguments(
        options.training(schedule, steps), len(rows.ids), work,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": schedule.min_learning_rate},
        warmup_steps=schedule.warmup,
        save_total_limit=_KEPT_CHECKPOINTS,
        report_to=reporter,
    )  # fmt: skip
    return SurgeryTrainer(
        model=model, args=arguments, train_dataset=RowsDataset(rows), data_collator=collate,
        callbacks=writers, objective=objective, taps=Taps([]), teacher=teacher, extras=extras,
    )  # fmt: skip


def teacher_for(teacher: Subject | nn.Module | None, schedule: Schedule) -> Teacher | None:
    """The teacher, frozen, where the schedule's loss needs one. UsageError where it is missing.

    A model in memory (a control just trained) is frozen as it is.
    """
    if not schedule.needs_teacher:
        return None
    if teacher is None:
        raise UsageError(
            f"schedule {schedule.name} has a KL, and no teacher was given", "--teacher MODEL"
        )
    model: Any = teacher.load("auto") if isinstance(teacher, Subject) else teacher.eval()
    return Teacher(model.requires_grad_(False), Taps([]))


def batches(
    rows: TextRows, count: int, size: int, labels: bool = False
) -> Iterator[dict[str, Tensor]]:
    """The first `count` rows in batches of the forward's arguments [size, time]."""
    data = RowsDataset(rows)
    for start in range(0, min(count, len(data)), size):
        items = [data[index] for index in range(start, min(start + size, count, len(data)))]
        batch = collate(items)
        if not labels:
            del batch["labels"]
        yield batch


def _reporters(options: RemovalOptions) -> tuple[str, list[Any]]:
    """What the Trainer is told to report to, and the callback that writes where we say."""
    if options.report_to == "none":
        return "none", []
    if find_spec(options.report_to) is None:
        raise UsageError(
            f"--report-to {options.report_to} needs that package",
            f"pip install {options.report_to}",
        )
    return _WRITERS[options.report_to](Path(str(options.logging_dir)))


def _tensorboard(directory: Path) -> tuple[str, list[Any]]:
    if not is_main_process():
        return "none", []
    with quiet():
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        return "none", [TensorBoardCallback(SummaryWriter(log_dir=str(directory)))]


def _trackio(directory: Path) -> tuple[str, list[Any]]:
    os.environ.setdefault("TRACKIO_DIR", str(directory))  # the only way to say where
    return "trackio", []


_WRITERS: dict[str, Callable[[Path], tuple[str, list[Any]]]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}
