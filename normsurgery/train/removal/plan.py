"""What a run is going to do, known before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from normsurgery.anatomy.norm_paths import end_token, read_paths
from normsurgery.anatomy.twin import meta_model
from normsurgery.train.arguments import process_count
from normsurgery.train.removal.events import Event, events
from normsurgery.train.removal.options import RemovalOptions
from normsurgery.train.removal.schedule import Schedule
from normsurgery.train.run import Subject
from normsurgery.train.trainable import trained_count

# Bytes a token, a layer and a channel that a block keeps for its backward pass in 16 bits, with the
# attention's scores recomputed: arXiv 2205.05198, section 4.1. Twice that in 32.
_ACTIVATIONS = 34
_LOGITS = 3  # copies of the logits in float32: themselves, their softmax, their gradient


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    tokens: that the run sees. memory: estimated bytes a process and device, by what takes them.
    seconds: of the whole run, None before the first steps are timed. measured_order: whether the
    events' order is that of measured sensitivity (False: of kinds; it is measured when the run
    starts, where the schedule asks for it).
    """

    schedule: Schedule
    events: tuple[Event, ...]
    steps: int
    tokens: int
    trainable_parameters: int
    memory: dict[str, int]
    measured_order: bool
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule.to_dict(),
            "events": [event.to_dict() for event in self.events],
            "steps": self.steps,
            "tokens": self.tokens,
            "trainable_parameters": self.trainable_parameters,
            "memory_bytes": {**self.memory, "total": sum(self.memory.values())},
            "measured_order": self.measured_order,
            "seconds": self.seconds,
        }


def plan_removal(
    subject: Subject,
    schedule: Schedule,
    options: RemovalOptions,
    *,
    row_length: int,
    teacher: bool,
    planned: Sequence[Event] | None = None,
    steps: int | None = None,
) -> Plan:
    """Read no weight: paths are the twin's, sizes the hollow model's.

    row_length: tokens of a row. teacher: whether one is loaded beside. planned, steps: of a course
    that differs from the schedule's. Raises what `read_paths` and `events` raise.
    """
    found = subject.examination
    hollow = meta_model(found.model_class, found.config)
    steps = schedule.steps if steps is None else steps
    known = schedule.order == "kind" or options.order is not None
    if planned is None:
        by_kind = schedule if known else replace(schedule, order="kind")
        paths = read_paths(found, found.twin.model, sites=options.sites)
        ends = end_token(hollow) is not None
        planned = events(by_kind, paths, order=options.order, end=ends)
    else:
        known = True
    parameters = trained_count(hollow)
    return Plan(
        schedule=schedule, events=tuple(planned), steps=steps,
        tokens=steps * options.rows_per_step(process_count()) * row_length,
        trainable_parameters=parameters,
        memory=_memory(hollow.config, parameters, options, row_length, teacher=teacher),
        measured_order=schedule.order == "sensitivity" and known,
    )  # fmt: skip


def _memory(
    config: Any, parameters: int, options: RemovalOptions, row_length: int, *, teacher: bool
) -> dict[str, int]:
    """Estimated bytes; every process keeps all of it (FSDP shares the first three out)."""
    text = config.get_text_config()
    width = getattr(text, "hidden_size", 0)
    layers = getattr(text, "num_hidden_layers", 0)
    batch = options.batch_size * row_length
    kept = (2 * layers + _ACTIVATIONS) if options.gradient_checkpointing else _ACTIVATIONS * layers
    wide = 1 if options.bf16 else 2
    memory = {
        "weights": 4 * parameters,
        "gradients": 4 * parameters,
        "adam": 8 * parameters,
        "activations": wide * batch * width * kept,
        "logits": 4 * _LOGITS * batch * getattr(text, "vocab_size", 0),
    }
    return {**memory, "teacher": 4 * parameters} if teacher else memory
