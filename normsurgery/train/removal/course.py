"""The events of a run as they stand, and how they change when one was too much for the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from normsurgery.train.removal.events import Event, steps_needed
from normsurgery.train.removal.schedule import Schedule

# Of a run that was made longer: what is left of it after its last event.
_SETTLE = 0.1


class Rollback(NamedTuple):
    """A time that a run diverged, after `step` optimizer steps, and went back to step `back_to`.

    paths: of the event that had come before.
    """

    step: int
    back_to: int
    paths: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"step": self.step, "back_to": self.back_to, "paths": list(self.paths)}


@dataclass(frozen=True)
class Course:
    """What a run does, as a schedule planned it and retries changed it.

    steps: of the run. retries: times it diverged and went back. notes: what there is to say of it.
    rollbacks: one for each of these times.
    """

    events: tuple[Event, ...]
    steps: int
    retries: int = 0
    notes: tuple[str, ...] = ()
    rollbacks: tuple[Rollback, ...] = ()

    @property
    def first(self) -> int:
        """The step of the first event."""
        return self.events[0].step

    def before(self, step: int) -> Event | None:
        """The last event that bore on the first `step` optimizer steps."""
        past = [event for event in self.events if event.step < step]
        return past[-1] if past else None

    def slower(self, culprit: Event, schedule: Schedule) -> Course:
        """All gaps doubled from the one before `culprit` on; more steps where they are needed."""
        previous = max((e.step for e in self.events if e.step < culprit.step), default=0)
        delay = max(1, culprit.step - previous)
        events = tuple(
            replace(event, step=2 * event.step - culprit.step + delay)
            if event.step >= culprit.step
            else event
            for event in self.events
        )
        needed = steps_needed(events, schedule)
        steps = self.steps if needed <= self.steps else math.ceil(needed / (1.0 - _SETTLE))
        return replace(self, events=events, steps=steps, retries=self.retries + 1)

    def noting(self, *notes: str) -> Course:
        return replace(self, notes=(*self.notes, *notes))

    def going_back(self, rollback: Rollback) -> Course:
        return replace(self, rollbacks=(*self.rollbacks, rollback))

    def to_dict(self) -> dict[str, Any]:
        return {
            "events": [event.to_dict() for event in self.events],
            "steps": self.steps,
            "retries": self.retries,
            "notes": list(self.notes),
            "rollbacks": [one.to_dict() for one in self.rollbacks],
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Course:
        return Course(
            tuple(Event.from_dict(event) for event in values["events"]),
            values["steps"],
            values["retries"],
            tuple(values["notes"]),
            tuple(
                Rollback(one["step"], one["back_to"], tuple(one["paths"]))
                for one in values.get("rollbacks", ())  # a run of an older version has none
            ),
        )
