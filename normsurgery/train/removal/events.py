"""The steps at which something is removed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from normsurgery.anatomy.norm_paths import NormPath
from normsurgery.errors import UsageError
from normsurgery.train.removal.schedule import Schedule

KINDS = ("mlp", "qk", "v", "inner", "final")  # in the order in which they go
# Gaps are sums of floats: 3 × 0.1 must not be a step early or late.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Event:
    """Something that happens once `step` optimizer steps are done, before the next.

    paths: names of norm paths; of a merge ("end",) or ("first",).
    """

    step: int
    action: Literal["remove", "merge"]
    paths: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"step": self.step, "action": self.action, "paths": list(self.paths)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Event:
        return Event(values["step"], values["action"], tuple(values["paths"]))


def events(
    schedule: Schedule,
    paths: Sequence[NormPath],
    *,
    order: Sequence[str] | None = None,
    end: bool = True,
) -> tuple[Event, ...]:
    """What happens when, in order. paths: in order of execution.

    order: names, the least sensitive first, where the schedule goes by sensitivity: across kinds,
    each with its own kind's gap. end: whether there is an end-of-text token with a σ̂ of its own.
    UsageError where the run is over before the last event is, or where `order` is not of all paths.
    """
    planned: list[tuple[float, str, str]] = []
    at = float(schedule.start)
    for path in _ordered(schedule, paths, order):
        planned.append((at, "remove", path.name))
        at += schedule.gap(path.kind)
    for which in ("end", "first") if end else ("first",):
        planned.append((at, "merge", which))
        at += schedule.gap(which)
    found = tuple(_grouped(planned))
    needed = steps_needed(found, schedule) + math.ceil(schedule.gap_first - _ROUNDING)
    if needed > schedule.steps:
        raise UsageError(
            f"schedule {schedule.name} needs {needed} steps for {len(paths)} norm paths and has "
            f"{schedule.steps}",
            "more steps (--tokens), or smaller gaps",
        )
    return found


def steps_needed(planned: Iterable[Event], schedule: Schedule) -> int:
    """Steps after which every event is done and one step was taken without any norm."""
    return max(event.step + annealing(event, schedule) for event in planned) + 1


def annealing(event: Event, schedule: Schedule) -> int:
    """Steps from an event to its end."""
    return schedule.anneal if event.action == "remove" else schedule.anneal_first


def _ordered(
    schedule: Schedule, paths: Sequence[NormPath], order: Sequence[str] | None
) -> list[NormPath]:
    if schedule.order == "kind":
        return sorted(paths, key=lambda path: KINDS.index(path.kind))  # stable
    if order is None or sorted(order) != sorted(path.name for path in paths):
        raise UsageError(
            f"schedule {schedule.name} goes by sensitivity, and no order of all norm paths is given"
        )
    by_name = {path.name: path for path in paths}
    return [by_name[name] for name in order]


def _grouped(planned: Iterable[tuple[float, str, str]]) -> Iterable[Event]:
    whole = [(math.floor(at + _ROUNDING), action, name) for at, action, name in planned]
    for (step, action, merged), group in groupby(
        whole, key=lambda item: (*item[:2], item[2] if item[1] == "merge" else "")
    ):
        names = (merged,) if merged else tuple(name for *_, name in group)
        yield Event(step, "merge" if action == "merge" else "remove", names)
