"""One configuration with BatchNorms on trial: a tiny checkpoint on disk, the folds, the proof.

The model is at full depth with tiny widths, its files in transformers' own spelling. They are
folded, loaded by the stock class and compared with the model that they were saved from, in float64;
as a negative control they are folded once more with one norm's share left out of its maps.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from normsurgery.anatomy.batchnorm.read import read_batch_norms
from normsurgery.anatomy.batchnorm.sites import BatchNorms
from normsurgery.anatomy.census.batch_norms import Configuration
from normsurgery.anatomy.names import map_names
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.proof import CONTROL_FLOOR, EXACT_BOUND, load_float64
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.twin import Twin, build_twin, relative_error
from normsurgery.checkpoint import open_checkpoint, write_weights
from normsurgery.errors import SurgeryError

FOLDED, NOTHING, UNTRIED, FAILED, WRONG = "folded", "none folds", "not built", "failed", "WRONG"
_SILENT = "no output shows whether it is right"
_SEEDS = (1, 2, 3)  # a last ReLU may leave nothing of one seed's outputs


@dataclass(frozen=True)
class BatchNormRow:
    """What became of a configuration's norms.

    norms: executed; of them producer, consumer and branch fold. error: largest difference / std of
    any output, float64. control: the same of a result that is wrong on purpose.
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
    for seed in _SEEDS:
        row = BatchNormRow(configuration.name)
        for row in _tried(configuration, seed):
            yield row
        if not row.reason.startswith(_SILENT):
            return


def _tried(configuration: Configuration, seed: int) -> Iterator[BatchNormRow]:
    row = BatchNormRow(configuration.name)
    try:
        model_class, config = configuration.load()
        row = replace(row, model_type=config.model_type)
        sample = build_twin(model_class, config, seed=seed)
    except Exception as error:  # whatever transformers raises while building
        yield replace(row, reason=_words(error))
        return
    try:
        found = read_batch_norms(sample)
        row = counted(row, found)
        yield replace(row, verdict=FAILED, reason="not proved")
        if row.folds:
            yield _proved(row, sample, found)
        else:
            yield replace(row, verdict=NOTHING)
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


def _proved(row: BatchNormRow, sample: Twin, found: BatchNorms) -> BatchNormRow:
    """The row with the error of the folded files, and of such as lack one norm's share."""
    seen = [site.name for site in found.folded if site.seen]
    with tempfile.TemporaryDirectory(prefix="normsurgery-census-") as scratch:
        source = Path(scratch, "source")
        with quiet():
            sample.model.save_pretrained(source)
        folding = partial(_folded_error, sample, found, source)
        error = folding(Path(scratch, "right"), ())
        control = folding(Path(scratch, "wrong"), seen[-1:]) if seen else None
    felt = control is not None and control > CONTROL_FLOOR
    verdict = WRONG if error > EXACT_BOUND else FOLDED if felt else FAILED
    reason = row.reason if felt else f"{_SILENT}; {row.reason}"
    return replace(row, verdict=verdict, error=error, control=control, reason=reason)


def _folded_error(
    sample: Twin, found: BatchNorms, source: Path, after: Path, unfolded: Collection[str]
) -> float:
    """How far the folded files are from the model that they were saved from, in float64."""
    from normsurgery.surgery.batchnorm.fold import fold_batch_norms

    checkpoint = open_checkpoint(source)
    names = map_names(sample.model, checkpoint)
    result, _ = fold_batch_norms(checkpoint, names, found, form="keep", unfolded=unfolded)
    after.mkdir()
    write_weights(result, after, hashes=False)
    model = load_float64(type(sample.model), after)
    ours = run_outputs(model, sample.inputs)
    return relative_error(ours, run_outputs(sample.model, sample.inputs))[0]


def _words(error: BaseException) -> str:
    text: Any = error.message if isinstance(error, SurgeryError) else None
    return " ".join((text or f"{type(error).__name__}: {error}").split())[:300]
