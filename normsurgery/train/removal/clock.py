"""What happens at which optimizer step, inside the Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from normsurgery.train.norms.attach import Removal
from normsurgery.train.removal.course import Course
from normsurgery.train.removal.events import Event, annealing
from normsurgery.train.removal.schedule import Schedule


class Clock(TrainerCallback):  # type: ignore[misc]
    """Removes and merges when it is time, and lets σ̂ tick once an optimizer step.

    Its state is what a checkpoint needs to go on to the same bits: σ̂, the schedule, the course and
    what of it was carried out.
    """

    def __init__(self, removal: Removal, schedule: Schedule, course: Course) -> None:
        self._removal, self._schedule, self._course = removal, schedule, course
        self.carried: list[Event] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Apply what is due before this step."""
        for event in self._course.events:
            length = annealing(event, self._schedule)
            if not 0 <= state.global_step - event.step <= length:
                continue
            if state.global_step == event.step:
                self.carried.append(event)
            self._apply(event, (state.global_step - event.step + 1) / (length + 1))

    def _apply(self, event: Event, share: float) -> None:
        if event.action == "remove":
            self._removal.remove(event.paths, share)
            return
        for which in event.paths:
            self._removal.merge("end" if which == "end" else "first", share)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._removal.tick()

    @property
    def last(self) -> str:
        """What went last, "" before anything did."""
        return ", ".join(self.carried[-1].paths) if self.carried else ""

    def figures(self) -> dict[str, float]:
        """σ of a removed path over its σ̂, farthest from 1; and how many paths are removed."""
        drifts = [max(ratio, 1.0 / ratio) for ratio in self._removal.drift().values() if ratio > 0]
        gone = sum(len(event.paths) for event in self.carried if event.action == "remove")
        return {"drift": max(drifts, default=1.0), "removed": float(gone)}

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schedule": self._schedule.to_dict(),
            "course": self._course.to_dict(),
            "carried": [event.to_dict() for event in self.carried],
            "removal": self._removal.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """What was done before; the course ahead is this clock's own."""
        self.carried = [Event.from_dict(event) for event in state["carried"]]
        self._removal.restore(state["removal"])
