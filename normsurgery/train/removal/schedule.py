"""When each norm goes, and how the model trains meanwhile.

The clock is the optimizer step: step s is the one that s optimizer steps come before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from normsurgery.anatomy.norm_paths import NormPath
from normsurgery.errors import UsageError
from normsurgery.train.options import LossWeights

Order = Literal["kind", "sensitivity"]
ORDERS: tuple[Order, ...] = ("kind", "sensitivity")

# ---- What `auto` is made of; shares are of the run's steps. ----
START_AT = 0.03  # the first removal
SITES_BY = 0.55  # the final norm, after every other path
END_AT = 0.57  # end-of-text's own σ̂ goes
FIRST_AT = 0.62  # position 0's own σ̂ goes
WARMUP = 0.03
# Time for a path of each kind, relative to the others: the gaps of arXiv 2507.02559.
TIME = {"mlp": 2.0, "qk": 2.0, "v": 3.0, "inner": 3.0}
# Parameters → highest rate, lowest rate as a share of it, λ of the auxiliary loss. The last four
# are the published settings (arXiv 2507.02559), the first was measured here; in between on a
# log-log line. Beyond the largest the rate falls as 1/parameters, on which nobody has published
# anything.
POINTS: tuple[tuple[float, float, float, float], ...] = (
    (0.8e6, 2.4e-3, 0.02, 0.1),
    (124e6, 6e-4, 1 / 2, 0.1),
    (355e6, 6e-4, 1 / 2, 0.1),
    (774e6, 3e-4, 4 / 30, 0.03),
    (1558e6, 1e-4, 1 / 5, 0.01),
)


@dataclass(frozen=True)
class Schedule:
    """When each norm goes, and how the model trains meanwhile.

    steps: of the run. horizon: of the learning rate's cosine, at least as many; the run may end
    earlier. tokens_per_step: that the settings were found with, None where any number will do.
    start: step of the first removal. gap_*: steps that the model gets after each removal of that
    kind before the next one, whatever its kind; below 1, several go in one step. gap_final: after
    the final norm; gap_end: after end-of-text's own σ̂; gap_first: after position 0's, the last:
    steps that the run must still have then. Inner norms go after the v paths, with their gap.
    learning_rate, min_learning_rate: highest and last of the cosine. warmup: steps in which the
    rate rises from 0. weight_decay: of matrices only. clip: largest norm of the gradient.
    decay: of the exponential moving average that σ̂ is, one tick an optimizer step.
    auxiliary: λ of the loss that makes σ at the final norm's input alike for all tokens.
    anneal: steps over which a removed path goes from real to frozen, 0: at once. anneal_first: the
    same for the σ̂ of position 0 and of end-of-text, on their way to the ordinary one.
    ce, kl: weights at the first and at the last step, linear between. kl_rows: share of each
    batch's rows that the teacher sees; its forward pass is what a KL costs.
    order: "kind" (mlp, qk, v, inner, final, each in order of execution) or "sensitivity".
    UsageError, naming the key, for a value that makes no sense.
    Source: arXiv 2507.02559; anneal and ce → kl are ours.
    """

    name: str
    steps: int
    horizon: int
    tokens_per_step: int | None
    start: int
    gap_mlp: float
    gap_qk: float
    gap_v: float
    gap_final: float
    gap_end: float
    gap_first: float
    learning_rate: float
    min_learning_rate: float
    warmup: int
    weight_decay: float = 0.01
    clip: float = 1.0
    decay: float = 0.9
    auxiliary: float = 0.1
    anneal: int = 0
    anneal_first: int = 0
    ce: tuple[float, float] = (1.0, 1.0)
    kl: tuple[float, float] = (0.0, 0.0)
    kl_rows: float = 0.25
    order: Order = "kind"

    def __post_init__(self) -> None:
        for names, fine, words in _RULES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not fine(value):
                    raise UsageError(f"schedule {self.name}: {name} {value} is not {words}")
        if self.horizon < self.steps:
            raise UsageError(
                f"schedule {self.name}: horizon {self.horizon} is less than steps {self.steps}"
            )
        if self.min_learning_rate > self.learning_rate:
            raise UsageError(
                f"schedule {self.name}: min_learning_rate {self.min_learning_rate} is above "
                f"learning_rate {self.learning_rate}"
            )
        if any(ce + kl == 0.0 for ce, kl in zip(self.ce, self.kl, strict=True)):
            raise UsageError(f"schedule {self.name}: ce {self.ce} and kl {self.kl} are both 0")

    @property
    def needs_teacher(self) -> bool:
        return any(self.kl)

    def weights(self, step: int, temperature: float = 1.0) -> LossWeights:
        """Weights of the loss at a step."""
        done = min(1.0, step / max(1, self.steps - 1))
        ce, kl = ((1.0 - done) * a + done * b for a, b in (self.ce, self.kl))
        return LossWeights(ce=ce, kl=kl, temperature=temperature)

    def gap(self, kind: str) -> float:
        """Steps after a removal of this kind, or after a merge ("end", "first")."""
        gap: float = getattr(self, f"gap_{'v' if kind == 'inner' else kind}")
        return gap

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, and as a schedule file has them."""
        return {**asdict(self), "ce": list(self.ce), "kl": list(self.kl)}


def _count(value: float) -> bool:
    return value >= 1


def _not_negative(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _rate(value: float) -> bool:
    return 0 < value < 1


_RULES: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (("steps", "horizon", "tokens_per_step"), _count, "1 or more"),
    (
        (
            "start", "gap_mlp", "gap_qk", "gap_v", "gap_final", "gap_end", "gap_first", "warmup",
            "weight_decay", "auxiliary", "anneal", "anneal_first", "min_learning_rate",
        ),
        _not_negative, "0 or more",
    ),
    (("learning_rate",), _rate, "between 0 and 1"),
    (("kl_rows",), lambda value: 0 < value <= 1, "above 0 and at most 1"),
    (("decay",), lambda value: 0 <= value < 1, "at least 0 and below 1"),
    (("clip",), lambda value: 0 < value < math.inf, "above 0"),
    (("ce", "kl"), lambda pair: all(map(_not_negative, pair)), "two weights of 0 or more"),
    (("order",), lambda order: order in ORDERS, f"one of: {', '.join(ORDERS)}"),
)  # fmt: skip


def auto_schedule(
    *,
    parameters: int,
    tokens: int,
    tokens_per_step: int,
    paths: Sequence[NormPath],
    steps: int | None = None,
) -> Schedule:
    """A schedule for a model of so many parameters and a budget of so many tokens.

    Every time is a share of the run. steps: instead of the budget's. UsageError where the budget is
    less than a step.
    """
    if steps is None:
        steps = tokens // tokens_per_step
        if steps < 1:
            raise UsageError(
                f"{tokens:,} tokens are less than one step of {tokens_per_step:,}",
                "more --tokens, or a smaller --batch-size",
            )
    start = max(1, round(START_AT * steps)) if steps > 1 else 0
    unit = (SITES_BY * steps - start) / max(1.0, sum(TIME.get(p.kind, 0.0) for p in paths))
    unit = max(0.0, unit)
    highest, share, auxiliary = _at(parameters)
    return Schedule(
        name="auto", steps=steps, horizon=steps, tokens_per_step=tokens_per_step, start=start,
        gap_mlp=unit * TIME["mlp"], gap_qk=unit * TIME["qk"], gap_v=unit * TIME["v"],
        gap_final=(END_AT - SITES_BY) * steps, gap_end=(FIRST_AT - END_AT) * steps, gap_first=0.0,
        learning_rate=highest, min_learning_rate=highest * share, warmup=round(WARMUP * steps),
        auxiliary=auxiliary,
    )  # fmt: skip


def _at(parameters: int) -> tuple[float, float, float]:
    """Highest rate, lowest as a share of it, and λ, for a number of parameters."""
    size = max(float(parameters), POINTS[0][0])
    largest = POINTS[-1]
    if size >= largest[0]:
        return largest[1] * largest[0] / size, largest[2], largest[3]
    above = next(index for index, point in enumerate(POINTS) if point[0] > size)
    low, high = POINTS[above - 1], POINTS[above]
    share = math.log(size / low[0]) / math.log(high[0] / low[0])
    rate, least, auxiliary = (a * (b / a) ** share for a, b in zip(low[1:], high[1:], strict=True))
    return rate, least, auxiliary
