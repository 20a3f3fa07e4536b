"""One family on trial: a tiny random checkpoint on disk, the surgery, the proof.

Two witnesses: the proof on the twin, as for any model; and the checkpoint's own saved files, other
random values in transformers' own spelling, compared with the model that they were saved from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from normsurgery.anatomy.census.architectures import classes_of, default_config, is_tower
from normsurgery.anatomy.examine import anatomy_of
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.proof import EXACT_BOUND, load_float64
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.twin import build_twin, relative_error
from normsurgery.checkpoint import open_checkpoint, write_weights
from normsurgery.errors import SurgeryError, UnsupportedModelError

PROVED, PART, REFUSED, NO_NORM, UNTRIED, FAILED, WRONG = (
    "proved", "part", "refused", "no LayerNorm", "not built", "failed", "WRONG",
)  # fmt: skip
_TRIES = 6


@dataclass(frozen=True)
class Row:
    """What became of a family. error: largest difference / std of any output, float64.

    form: "stock" (both ways in) or "graft". part: what was converted where not all was.
    """

    family: str
    verdict: str
    architecture: str = ""
    contract: str = ""
    form: str = ""
    part: str = ""
    error: float | None = None
    reason: str = ""
    seconds: float = 0.0


def try_family(family: str) -> Iterator[Row]:
    """Ever better verdicts on the family, as its classes are tried one after another."""
    best: Row | None = None
    for model_class in classes_of(family)[:_TRIES]:
        row = try_class(family, model_class)
        if row.verdict == PROVED and is_tower(model_class):
            row = replace(row, verdict=PART, part=row.architecture)
        if best is None or _TELLS[row.verdict] > _TELLS[best.verdict]:
            best = row
            yield best
        if best.verdict in (PROVED, WRONG, NO_NORM):
            return
    if best is None:
        yield Row(family, UNTRIED, reason="no class of its own")


# How much a verdict on one class says of its family; of equals the first class's counts.
_TELLS = {WRONG: 5, PROVED: 4, PART: 3, REFUSED: 2, FAILED: 1, NO_NORM: 0, UNTRIED: 0}


def try_class(family: str, model_class: Any) -> Row:
    """Build, save, convert and compare one class."""
    row = Row(family, UNTRIED, model_class.__name__)
    with tempfile.TemporaryDirectory(prefix="normsurgery-census-") as scratch:
        try:
            sample = _saved_sample(family, model_class, Path(scratch, "source"))
        except Exception as error:  # whatever transformers raises while building
            return replace(row, reason=_words(error))
        try:
            return _best_part(row, sample, Path(scratch))
        except UnsupportedModelError as refusal:
            return replace(row, verdict=_refusal(refusal), reason=refusal.message)
        except Exception as error:
            return replace(row, verdict=FAILED, reason=_words(error))


def _best_part(row: Row, sample: Any, scratch: Path) -> Row:
    """The whole model, or else its first part that converts, with what stands in the way."""
    try:
        return _converted(row, sample, scratch / "whole", None)
    except UnsupportedModelError as refusal:
        parts = anatomy_of(sample).convertible_parts()
        if _refusal(refusal) != REFUSED or not parts:
            raise
        row = replace(row, reason=refusal.message)
        return _converted(row, sample, scratch / "part", parts[0])


def _refusal(refusal: UnsupportedModelError) -> str:
    if "report the model id" in (refusal.hint or ""):
        return FAILED
    without = ("it has no LayerNorm", "RMSNorm already", "no LayerNorm reads")
    return NO_NORM if any(words in refusal.message for words in without) else REFUSED


def _saved_sample(family: str, model_class: Any, directory: Path) -> Any:
    """A tiny random model of the class, written as transformers writes it (float64)."""
    with quiet():
        config = default_config(family, model_class)
    sample = build_twin(model_class, config, seed=1, depth=2)
    with quiet():
        sample.model.save_pretrained(directory)
    return sample


def _converted(row: Row, sample: Any, after: Path, part: str | None) -> Row:
    from normsurgery.api.operation import Request
    from normsurgery.api.rmsnorm import plan_operation

    checkpoint = open_checkpoint(after.parent / "source")
    operation = plan_operation(checkpoint, Request(target="stock", part=part))
    proof = operation.prove()
    result, _ = operation.operate(checkpoint)
    after.mkdir()
    write_weights(result, after, hashes=False)
    hidden = operation.examination.anatomy.exposed
    reference = run_outputs(sample.model, sample.inputs, without=hidden)
    worst = max(proof.errors.values())
    for class_of in operation.forms.values():
        model = load_float64(class_of(after), after)
        error, _ = relative_error(run_outputs(model, sample.inputs, without=hidden), reference)
        worst = max(worst, error)
    good = PART if part else PROVED
    return replace(
        row, verdict=good if worst <= EXACT_BOUND else WRONG, contract="exact",
        form=operation.form, part=part or "", error=worst,
    )  # fmt: skip


def _words(error: BaseException) -> str:
    text = error.message if isinstance(error, SurgeryError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]
