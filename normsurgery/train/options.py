"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from normsurgery.errors import UsageError
from normsurgery.nearest import choices_hint

Method = Literal["lora", "head+last3", "full"]
METHODS: tuple[Method, ...] = ("lora", "head+last3", "full")
# Highest rates of the cosine schedule; the fewer parameters move, the further each may.
DEFAULT_RATES: dict[Method, float] = {"lora": 1e-3, "head+last3": 3e-4, "full": 1e-4}
DEFAULT_STEPS = 100
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class LossWeights:
    """loss = ce · cross-entropy + kl · KL(teacher ‖ student) + hidden · error of the stream.

    temperature: of both distributions in the KL, which is multiplied by its square so that the
    gradient keeps its size (arXiv 1503.02531).
    """

    ce: float = 1.0
    kl: float = 1.0
    hidden: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        weights = (self.ce, self.kl, self.hidden)
        if not all(0.0 <= weight < float("inf") for weight in weights) or not any(weights):
            raise UsageError(
                f"the loss weights ce {self.ce}, kl {self.kl}, hidden {self.hidden} leave nothing "
                "to train on",
                "each is 0 or more, and one of them is above 0",
            )
        if not 0.0 < self.temperature < float("inf"):
            raise UsageError(f"a temperature of {self.temperature} is not positive", "1 is usual")

    @property
    def needs_teacher(self) -> bool:
        return self.kl > 0.0 or self.hidden > 0.0


@dataclass(frozen=True)
class TrainOptions:
    """How a run trains.

    steps: optimizer steps; None is as many as `epochs` passes over the rows take, and where that is
    None too, DEFAULT_STEPS. rate: highest learning rate; None is the method's own.
    batch_size: rows a step and a process; gradient_accumulation: batches a step.
    bf16: autocast; None is where the device computes it natively. save_every: steps between the
    checkpoints that a run can be resumed from; None is a tenth of the run.
    """

    method: Method = "lora"
    steps: int | None = None
    epochs: float | None = None
    rate: float | None = None
    batch_size: int = 8
    gradient_accumulation: int = 1
    bf16: bool | None = None
    weights: LossWeights = field(default_factory=LossWeights)
    lora_rank: int = 16
    warmup: float = 0.1
    clip: float = 1.0
    weight_decay: float = 0.0
    gradient_checkpointing: bool = False
    save_every: int | None = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"unknown training method {self.method!r}", choices_hint(self.method, METHODS)
            )
        if self.steps is not None and self.epochs is not None:
            raise UsageError(
                "both --steps and --epochs say how long to train", "leave one of them out"
            )
        for name in ("steps", "batch_size", "gradient_accumulation", "lora_rank", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value} is below 1", "give a count")
        if self.rate is not None and not 0.0 < self.rate < 1.0:
            raise UsageError(f"a learning rate of {self.rate} is not in (0, 1)", "1e-4 is usual")
        if self.epochs is not None and not 0.0 < self.epochs < float("inf"):
            raise UsageError(f"--epochs {self.epochs} is not positive", "1 is one pass")

    @property
    def learning_rate(self) -> float:
        return DEFAULT_RATES[self.method] if self.rate is None else self.rate

    def steps_over(self, rows: int, processes: int = 1) -> int:
        """Optimizer steps of the whole run, given the rows to train on."""
        if self.epochs is None:
            return DEFAULT_STEPS if self.steps is None else self.steps
        rows_a_step = self.batch_size * self.gradient_accumulation * processes
        return max(1, round(self.epochs * rows / rows_a_step))

    def to_dict(self) -> dict[str, Any]:
        """What of it decides the result; as JSON values, for the recipe and for resuming."""
        return {**asdict(self), "rate": self.learning_rate}
