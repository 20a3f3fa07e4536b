"""The verification document, and the rules that decide pass or fail.

An `exact` candidate passes when all of this holds:

* its load report has no entry that the reference's lacks;
* it gives a finite value wherever the reference does;
* each output's error against the high-precision truth (the reference's own file, run wider) is at
  most 3 × the noise floor (the error of the reference run in its storage dtype), for the mean and
  for the maximum, at position 0 and elsewhere; for float64 files the maximum is instead held to
  1e-9 × the output's standard deviation (1e-4 where model code casts to float32);
* its greedy text is the reference's; or where a row first differs (the prefix is the same there),
  the reference's own logits of the two tokens are no further apart than 2 × the floor's maximum
  (float64 files: 2 × the bound): each of the two may be off by the floor, so the reference itself
  cannot tell them apart at this precision. What follows a first difference is not compared.

A `fitted`, `lossy` or `trained` candidate passes when it loads clean and stays finite.

Where it is asked for, the logits must also be the sum of the blocks' contributions (`linearity`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from normsurgery.verify.figures import Difference, Spread
from normsurgery.verify.linearity import Linearity
from normsurgery.verify.load import LoadReport

CONTRACTS = ("exact", "fitted", "lossy", "trained")
NOISE_RATIO = 3.0  # a rewritten weight is rounded once more than the source's
FLOAT64_BOUND = 1e-9
HARD_CAST_BOUND = 1e-4


@dataclass(frozen=True)
class Parted:
    """A figure of all positions but 0, and of position 0, where the attention sink sits."""

    rest: Difference
    first: Difference

    @property
    def max(self) -> float:
        return max(self.rest.max, self.first.max)

    @property
    def nonfinite(self) -> int:
        return self.rest.nonfinite + self.first.nonfinite


@dataclass(frozen=True)
class OutputFigures:
    """One output of the model. difference: from the reference in the same dtype.

    error: from the truth. floor: the reference's own error, None for float64 files.
    """

    difference: Parted
    error: Parted
    floor: Parted | None
    std: float
    allowed: float
    smallest: float  # the least floor: one rounding of the output itself

    @property
    def ratio(self) -> float:
        """What `allowed` bounds: error over floor, or (float64 files) maximum error over std."""
        if self.floor is None:
            return _over(self.error.max, self.std)
        rest, first = self.floor.rest, self.floor.first
        return max(
            self._part(self.error.rest, rest.mean, rest.max),
            # Few tokens stand at position 0: their floor is at least that of the others.
            self._part(
                self.error.first, max(first.mean, rest.mean), max(first.max, rest.max)
            ),
        )  # fmt: skip

    def _part(self, error: Difference, mean: float, highest: float) -> float:
        return max(
            _over(error.mean, max(mean, self.smallest)),
            _over(error.max, max(highest, self.smallest)),
        )

    @property
    def noise(self) -> float:
        """How far apart two values must be for the reference to tell them apart."""
        if self.floor is None:
            return 2 * self.allowed * self.std
        return 2 * max(self.floor.max, self.smallest)

    def to_dict(self) -> dict[str, Any]:
        rest = self.difference.rest
        return {
            **rest.to_dict(),
            "std": self.std,
            "max_over_std": _over(rest.max, self.std),
            "ratio": self.ratio,
            "allowed": self.allowed,
        }


def _over(value: float, base: float) -> float:
    if base > 0:
        return value / base
    return 0.0 if value == 0 else math.inf


@dataclass(frozen=True)
class PredictionFigures:
    """Distribution figures of one part of the positions."""

    kl: Spread | None
    top1: float | None
    reference_loss: Spread | None
    candidate_loss: Spread | None

    def loss(self) -> dict[str, Any] | None:
        if self.reference_loss is None or self.candidate_loss is None:
            return None
        return {
            "reference": self.reference_loss.to_dict(),
            "candidate": self.candidate_loss.to_dict(),
        }

    def divergence(self) -> dict[str, float] | None:
        if self.kl is None:
            return None
        return {"mean": self.kl.mean, "p999": self.kl.p999, "max": self.kl.max}


@dataclass(frozen=True)
class Divergence:
    """Where a row's greedy text first differs, and how far the reference told the two apart."""

    row: int
    step: int
    margin: float
    noise: float

    @property
    def excused(self) -> bool:
        return self.margin <= self.noise


@dataclass(frozen=True)
class GenerationFigures:
    rows: int
    new_tokens: int
    divergences: tuple[Divergence, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "new_tokens": self.new_tokens,
            "divergences": [{**vars(d), "excused": d.excused} for d in self.divergences],
        }


@dataclass(frozen=True)
class Verification:
    """What was measured, and the verdict with its reasons.

    unit: what `tokens` counts: "tokens"; "samples" where the input is no text and an output is one
    row a sample; "positions" where it is several.
    """

    contract: str
    dtype: str
    device: str
    tokens: int
    primary: str
    truth_dtype: str
    load_report: LoadReport
    outputs: dict[str, OutputFigures] = field(default_factory=dict)
    predictions: PredictionFigures | None = None
    predictions_first: PredictionFigures | None = None
    generation: GenerationFigures | None = None
    linearity: Linearity | None = None
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unit: str = "tokens"

    @property
    def verdict(self) -> str:
        return "fail" if self.reasons else "pass"

    @property
    def passed(self) -> bool:
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """The `verification` part of the result document; figures that are not finite are null."""
        main = self.outputs.get(self.primary)
        guess = self.predictions
        document = {
            "verdict": self.verdict,
            "contract": self.contract,
            "dtype": self.dtype,
            "device": self.device,
            "tokens": self.tokens,
            "unit": self.unit,
            "noise_floor": self._floor(main),
            "logits": None if main is None else {**main.to_dict(), "output": self.primary},
            "kl": None if guess is None else guess.divergence(),
            "top1": None if guess is None else guess.top1,
            "loss": None if guess is None else guess.loss(),
            "generation_identical": (
                None if self.generation is None else not self.generation.divergences
            ),
            "load_report": self.load_report.to_dict(),
            "position_0": self._first(main),
            "outputs": {name: figures.to_dict() for name, figures in self.outputs.items()},
            "generation": None if self.generation is None else self.generation.to_dict(),
            "linearity": None if self.linearity is None else self.linearity.to_dict(),
            "why": "; ".join(self.reasons) or None,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
        }
        finite: dict[str, Any] = _json_safe(document)
        return finite

    def _floor(self, main: OutputFigures | None) -> dict[str, Any] | None:
        if main is None or main.floor is None:
            return None
        return {**main.floor.rest.to_dict(), "against": self.truth_dtype}

    def _first(self, main: OutputFigures | None) -> dict[str, Any] | None:
        if main is None or not main.difference.first.count:
            return None
        guess = self.predictions_first
        return {
            "logits": main.difference.first.to_dict(),
            "kl": None if guess is None else guess.divergence(),
            "top1": None if guess is None else guess.top1,
            "loss": None if guess is None else guess.loss(),
        }


def _json_safe(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _json_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_safe(item) for item in value]
    return value


def reasons_against(
    contract: str,
    load_report: LoadReport,
    outputs: dict[str, OutputFigures],
    generation: GenerationFigures | None,
    linearity: Linearity | None = None,
) -> list[str]:
    """Why the candidate fails its contract; empty when it passes.

    load_report: what the candidate has beyond its reference.
    """
    reasons = []
    if not load_report.clean:
        reasons.append(f"load report: {load_report.sentence()}")
    for name, figures in outputs.items():
        if figures.difference.nonfinite:
            reasons.append(
                f"{name}: {figures.difference.nonfinite} values are finite on one side only"
            )
    if linearity is not None and not linearity.passed:
        reasons.append(linearity.reason())
    if contract != "exact":
        return reasons
    for name, figures in outputs.items():
        if not figures.ratio <= figures.allowed:
            unit = "× the standard deviation" if figures.floor is None else "× the noise floor"
            reasons.append(
                f"{name}: error is {figures.ratio:.3g} {unit}, {figures.allowed:.3g} is allowed"
            )
    for one in generation.divergences if generation is not None else ():
        if not one.excused:
            reasons.append(
                f"generation: row {one.row} differs at token {one.step}, where the reference's "
                f"margin is {one.margin:.3g} and its noise {one.noise:.3g}"
            )
    return reasons
