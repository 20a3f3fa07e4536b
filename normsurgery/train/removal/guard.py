"""A run that diverges goes back to before the removal that did it, and on more slowly."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from normsurgery.errors import SurgeryError
from normsurgery.train.arguments import is_main_process
from normsurgery.train.removal.course import Course, Rollback
from normsurgery.train.removal.schedule import Schedule
from normsurgery.train.work import checkpoints

LIMIT = 3.0  # times the reference's loss
WINDOW = 5  # steps that a loss is the mean of: one bad batch is no divergence
_BEFORE = 20  # steps before the first removal that stand for the reference where there is none


class DivergedError(Exception):
    """Training went wrong in the last of so many steps."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(f"step {step}: {why}")
        self.step, self.why = step, why


class Guard(TrainerCallback):  # type: ignore[misc]
    """Raises DivergedError once the loss is not finite, or far above the reference's.

    reference: cross-entropy of the control at each step; None: this run's own, before the first
    removal. It looks at the Trainer's history only, which every process and every resumed run has.
    """

    def __init__(self, course: Course, reference: Sequence[float] | None) -> None:
        self._course, self._reference = course, reference

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        for name in ("loss", "ce", "grad_norm"):
            value = logs.get(name, 0.0)
            if not math.isfinite(value):
                raise DivergedError(state.global_step, f"its {name} is {value}")
        allowed = self._allowed(state)
        recent = _mean([e["ce"] for e in state.log_history[-WINDOW:] if "ce" in e])
        if recent > allowed:
            raise DivergedError(
                state.global_step,
                f"its cross-entropy is {recent:.3f}, above {LIMIT:g} × {allowed / LIMIT:.3f}",
            )

    def _allowed(self, state: Any) -> float:
        """The largest mean cross-entropy of the last steps that is no divergence."""
        step = state.global_step
        if self._reference:
            end = min(step, len(self._reference))
            return LIMIT * _mean(self._reference[max(0, end - WINDOW) : end])
        first = max(1, self._course.first)
        if step <= first:
            return math.inf
        before = [e["ce"] for e in state.log_history[:first] if "ce" in e]
        return LIMIT * _mean(before[-_BEFORE:])


def go_back(
    course: Course, failure: DivergedError, schedule: Schedule, work: Path, retries: int
) -> tuple[Course, Path | None]:
    """The course from now on, and the checkpoint to take it up from (None: the start).

    What the run saved after that checkpoint is removed. SurgeryError where nothing had been removed
    yet, so that no slower removal helps, or where it has happened `retries` times.
    """
    culprit = course.before(failure.step)
    said = f"training diverged at step {failure.step}: {failure.why}"
    if culprit is None:
        raise SurgeryError(f"{said}; no norm had been removed yet", "a smaller learning_rate")
    if course.retries >= retries:
        raise SurgeryError(
            f"{said}; {retries} retries with longer gaps did not help",
            "a smaller learning_rate, or more steps (--tokens); nothing was written",
        )
    found = checkpoints(work)
    start = max((step for step, _ in found if step <= culprit.step), default=0)
    if is_main_process():
        for step, path in found:
            if step > start:
                shutil.rmtree(path, ignore_errors=True)
    slower = course.slower(culprit, schedule)
    longer = f"; the run takes {slower.steps} steps" if slower.steps > course.steps else ""
    note = (
        f"{said}; after {', '.join(culprit.paths)} went at step {culprit.step}. It went back to "
        f"step {start}, with the gaps from there on doubled{longer}"
    )
    rollback = Rollback(failure.step, start, culprit.paths)
    return slower.noting(note).going_back(rollback), dict(found).get(start)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
