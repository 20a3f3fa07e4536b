"""How a removal by training runs, beside its schedule."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from normsurgery.anatomy.norm_paths import DEFAULT_SITES
from normsurgery.errors import UsageError
from normsurgery.nearest import choices_hint
from normsurgery.train.options import TrainOptions
from normsurgery.train.removal.schedule import Schedule

ReportTo = Literal["none", "tensorboard", "trackio"]
REPORTERS: tuple[ReportTo, ...] = ("none", "tensorboard", "trackio")


@dataclass(frozen=True)
class RemovalOptions:
    """How a removal by training runs, beside its schedule.

    batch_size: rows a batch and a process; gradient_accumulation: batches a step.
    bf16: autocast; None is where the device computes it natively. Weights stay float32.
    temperature: of both in the KL.
    sites: which norms go. order: names of norm paths, the least sensitive first, for a schedule by
    sensitivity; None: measured before the first step on sensitivity_rows rows.
    calibration_rows: rows that the first σ̂ is the mean over.
    save_every: steps between the checkpoints to resume from; None is a twentieth of the run.
    retries: times that a run that diverged goes back and on more slowly.
    logging_dir: where `report_to` writes.
    """

    batch_size: int = 8
    gradient_accumulation: int = 1
    bf16: bool | None = None
    gradient_checkpointing: bool = False
    temperature: float = 1.0
    sites: Collection[str] = DEFAULT_SITES
    order: tuple[str, ...] | None = None
    sensitivity_rows: int = 32
    calibration_rows: int = 32
    save_every: int | None = None
    retries: int = 3
    seed: int = 0
    device: str = "auto"
    report_to: ReportTo = "none"
    logging_dir: Path | None = None

    def __post_init__(self) -> None:
        counts = (
            "batch_size", "gradient_accumulation", "save_every", "calibration_rows",
            "sensitivity_rows",
        )  # fmt: skip
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value} is below 1", "give a count")
        if not 0.0 < self.temperature < float("inf"):
            raise UsageError(f"a temperature of {self.temperature} is not positive", "1 is usual")
        if self.retries < 0:
            raise UsageError(f"{self.retries} retries are below 0", "3 are usual")
        if self.report_to not in REPORTERS:
            raise UsageError(
                f"--report-to {self.report_to!r} is unknown",
                choices_hint(self.report_to, REPORTERS),
            )
        if self.report_to != "none" and self.logging_dir is None:
            raise UsageError(f"--report-to {self.report_to} needs a directory", "--logging-dir DIR")

    def rows_per_step(self, processes: int = 1) -> int:
        """Rows of an optimizer step, over all processes."""
        return self.batch_size * self.gradient_accumulation * processes

    def training(self, schedule: Schedule, steps: int) -> TrainOptions:
        """The same as options of a training run."""
        return TrainOptions(
            method="full", steps=steps, rate=schedule.learning_rate, batch_size=self.batch_size,
            gradient_accumulation=self.gradient_accumulation, bf16=self.bf16,
            clip=schedule.clip, weight_decay=schedule.weight_decay, seed=self.seed,
            gradient_checkpointing=self.gradient_checkpointing, device=self.device,
            save_every=self.save_every or max(1, steps // 20),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for the recipe and for resuming."""
        logging = None if self.logging_dir is None else self.logging_dir.name
        return {**asdict(self), "sites": sorted(self.sites), "logging_dir": logging}


def accumulation_for(
    schedule: Schedule, *, batch_size: int, row_length: int, processes: int = 1
) -> int:
    """Batches a step that come nearest to the schedule's tokens a step; 1 where it names none."""
    if schedule.tokens_per_step is None:
        return 1
    return max(1, round(schedule.tokens_per_step / (batch_size * row_length * processes)))
