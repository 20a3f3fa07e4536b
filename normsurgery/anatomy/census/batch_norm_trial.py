"""One configuration with BatchNorms on trial: a tiny checkpoint on disk, the folds, the proof.

Two witnesses: the proof on the twin with its negative controls, as for any model; and the
checkpoint's own saved files, other random values in transformers' own spelling, folded and compared
with the model that they were saved from.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from normsurgery.anatomy.batchnorm.read import read_batch_norms
from normsurgery.anatomy.batchnorm.sites import BatchNorms
from normsurgery.anatomy.census.batch_norms import Configuration
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.proof import EXACT_BOUND, load_float64
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.twin import Twin, build_twin, relative_error
from normsurgery.checkpoint import open_checkpoint, write_weights
from normsurgery.errors import SurgeryError, VerificationError

FOLDED, NOTHING, UNTRIED, FAILED, WRONG = "folded", "none folds", "not built", "failed", "WRONG"


@dataclass(frozen=True)
class BatchNormRow:
    """What became of a configuration's norms.

    norms: executed; of them producer, consumer and branch fold. error: largest difference / std of
    any output, float64. control: the smallest such difference of results that are wrong on purpose.
    reason: why norms stay or are dead, or what went wrong.
    """

    configuration: str
    model_type: str = ""
    verdict: str = UNTRIED
    norms: int = 0
    producer: int = 0
    consumer: int = 0
    branch: int = 0
    stays: int = 0
    dead: int = 0
    merges: int = 0
    error: float | None = None
    control: float | None = None
    reason: str = ""
    seconds: float = 0.0

    @property
    def folds(self) -> int:
        return self.producer + self.consumer + self.branch


def try_configuration(configuration: Configuration) -> Iterator[BatchNormRow]:
    """The row as far as it is known: counts first, then with the proof."""
    row = BatchNormRow(configuration.name)
    try:
        model_class, config = configuration.load()
        row = replace(row, model_type=config.model_type)
        sample = build_twin(model_class, config, seed=1)
    except Exception as error:  # whatever transformers raises while building
        yield replace(row, reason=_words(error))
        return
    try:
        found = read_batch_norms(sample)
        row = counted(row, found)
        yield replace(row, verdict=FAILED, reason="not proved")
        if row.folds:
            yield _proved(row, sample)
        else:
            yield replace(row, verdict=NOTHING)
    except VerificationError as error:
        yield replace(row, verdict=WRONG, reason=_words(error))
    except Exception as error:
        yield replace(row, verdict=FAILED, reason=_words(error))


def counted(row: BatchNormRow, found: BatchNorms) -> BatchNormRow:
    """The row with how many norms there are of each kind, and why those stay that do."""
    kinds = Counter[str](site.kind for site in found.sites)
    reasons = Counter(
        f"{site.kind}: {_place(site.reason)}" for site in found.sites if not site.maps
    )
    told = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
    return replace(
        row, norms=len(found.sites) - kinds["dead"], producer=kinds["producer"],
        consumer=kinds["consumer"], branch=kinds["branch"], stays=kinds["stays"],
        dead=kinds["dead"], merges=len(found.merges), reason=told,
    )  # fmt: skip


def _place(reason: str) -> str:
    """A reason without the numbers of blocks, so that like ones are told once."""
    return re.sub(r"\.\d+", ".#", reason)


def _proved(row: BatchNormRow, sample: Twin) -> BatchNormRow:
    from normsurgery.api.batchnorm import plan_folding

    with tempfile.TemporaryDirectory(prefix="normsurgery-census-") as scratch:
        source, after = Path(scratch, "source"), Path(scratch, "result")
        with quiet():
            sample.model.save_pretrained(source)
        checkpoint = open_checkpoint(source)
        folding = plan_folding(checkpoint)
        proof = folding.prove()
        result, _ = folding.operate(checkpoint)
        after.mkdir()
        write_weights(result, after, hashes=False)
        model = load_float64(type(sample.model), after)
        ours = run_outputs(model, sample.inputs)
        error, _ = relative_error(ours, run_outputs(sample.model, sample.inputs))
    worst = max(error, *proof.errors.values())
    return replace(
        row, verdict=FOLDED if worst <= EXACT_BOUND else WRONG, error=worst,
        control=min(proof.controls.values()),
    )  # fmt: skip


def _words(error: BaseException) -> str:
    text: Any = error.message if isinstance(error, SurgeryError) else None
    return " ".join((text or f"{type(error).__name__}: {error}").split())[:300]
