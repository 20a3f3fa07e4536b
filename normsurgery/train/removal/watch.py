"""What a run tells while it goes, for whoever shows it."""

from __future__ import annotations

import time
from typing import Any, Protocol

from transformers import TrainerCallback

from normsurgery.train.removal.clock import Clock
from normsurgery.train.removal.plan import Plan

_TIMED = 3  # steps before a run says how long it takes; the first ones are slower


class Watcher(Protocol):
    """Shows a run. Called in the main process only."""

    def begin(self, plan: Plan) -> None:
        """Before the first step; again when a run that diverged goes back and on."""
        ...

    def step(
        self,
        *,
        step: int,
        total: int,
        last_removed: str,
        loss: float,
        drift: float,
        seconds_left: float | None,
    ) -> None:
        """After each optimizer step. drift: farthest σ / σ̂ from 1, or its inverse. seconds_left:
        None in the first steps."""
        ...


class Tells(TrainerCallback):  # type: ignore[misc]
    """Calls a Watcher."""

    def __init__(self, watcher: Watcher | None, clock: Clock | None) -> None:
        self._watcher, self._clock = watcher, clock
        self._started: tuple[int, float] | None = None
        self.seconds: float | None = None

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        left = self._left(state.global_step, state.max_steps)
        if self._watcher is not None and state.is_world_process_zero:
            self._watcher.step(
                step=state.global_step, total=state.max_steps,
                last_removed=self._clock.last if self._clock else "",
                loss=logs["loss"], drift=logs.get("drift", 1.0), seconds_left=left,
            )  # fmt: skip

    def _left(self, step: int, total: int) -> float | None:
        """Seconds left, at the mean pace since the first step of this session."""
        now = time.monotonic()
        if self._started is None:
            self._started = step, now
        first, began = self._started
        if step - first < _TIMED:
            return None
        pace = (now - began) / (step - first)
        self.seconds = pace * total
        return pace * (total - step)
