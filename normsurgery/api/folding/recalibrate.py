"""`fold --what recalibrate`: BatchNorm statistics measured anew after a lossy step.

Pruned or rounded weights give every channel another mean and variance than the norm after it was
trained for. Measured anew on calibration data they bring it back, where the norm was folded too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.api.document import source_document
from normsurgery.api.folding.norm_places import Place, find_places, placed
from normsurgery.api.same_class import target_document, unverified, verify_same_class
from normsurgery.api.writing import Writing
from normsurgery.calibrate.arrays.files import find_files
from normsurgery.calibrate.arrays.read import read_arrays
from normsurgery.calibrate.arrays.samples import Samples, held_out
from normsurgery.calibrate.batch_statistics import Statistics, reestimate
from normsurgery.calibrate.held_out import HeldOut, measured, outputs_of
from normsurgery.checkpoint import Checkpoint, open_checkpoint
from normsurgery.errors import ResourceError, UnsupportedModelError, UsageError, VerificationError
from normsurgery.graft.doors import one_door
from normsurgery.surgery.recalibrate import NormValues, recalibrate
from normsurgery.surgery.receipt import Receipt
from normsurgery.verify.load import available_memory_bytes, load_model
from normsurgery.verify.reference import chosen_device
from normsurgery.verify.sources import ModelSource
from normsurgery.version import VERSION

RECALIBRATE = "recalibrate"
SAMPLES = 512
_HELD_OUT = 0.25
_ACTIVATIONS = 8  # of memory, a norm's input takes one part: convolutions hold copies of theirs


@dataclass(frozen=True)
class RecalibrateRequest:
    """data: images, sounds or arrays (see `read_arrays`). reference: the original, which a norm
    that was folded needs, and samples without labels do.
    """

    data: str | Path | None
    reference: str | Path | None = None
    samples: int = SAMPLES
    device: str = "auto"
    seed: int = 0
    verify: bool = True
    dry_run: bool = False
    trust_remote_code: bool = False


def recalibrate_command(
    checkpoint: Checkpoint, request: RecalibrateRequest, writing: Writing
) -> dict[str, Any]:
    """The document of the run, the result written where the held-out part says that it is better.

    A quarter of the samples is held out: loss where they have labels, else the error of the
    outputs against the reference's, must fall. Every norm that the samples reach gets the mean and
    the (biased) variance of the rest. Contract: fitted.
    UsageError without data, or where nothing can be held out or measured; UnsupportedModelError
    without a norm that can take statistics; VerificationError where they do not help (nothing is
    written).
    """
    if request.data is None:
        raise UsageError("recalibrate measures on data", "give images, .wav or .npz: --data FOLDER")
    find_files(Path(request.data))  # a path that does not exist is told before the model is read
    examination = examine(checkpoint, trust_remote_code=request.trust_remote_code)
    original = _original(request, writing)
    places, left = find_places(checkpoint, examination, original)
    if not places:
        raise UnsupportedModelError(*_nothing(left))
    device = chosen_device(request.device)
    fitted = _fitted(checkpoint, examination, original, places, request, writing, device)
    return _written(checkpoint, examination, fitted, left, request, writing)


@dataclass(frozen=True)
class _Fitted:
    """places: the norms as they are re-inserted. statistics: of those that were reached.

    figures: on the held-out part: "before", "after" and, with labels, the "reference". fitting,
    held_out: samples. reference: the original as the user named it.
    """

    places: Mapping[str, Place]
    statistics: Mapping[str, Statistics]
    figures: Mapping[str, HeldOut]
    fitting: int
    held_out: int
    about: Mapping[str, Any]
    reference: str | None

    def values(self) -> dict[str, NormValues]:
        """The norms that are written: those with new statistics."""
        return {
            name: replace(
                self.places[name].values, mean=found.mean, variance=found.variance
            )
            for name, found in self.statistics.items()
        }  # fmt: skip


def _original(request: RecalibrateRequest, writing: Writing) -> Checkpoint | None:
    if request.reference is None:
        return None
    return open_checkpoint(request.reference, allow_pickle=writing.allow_pickle)


def _nothing(left: Mapping[str, str]) -> tuple[str, str]:
    hint = "recalibrate a checkpoint with BatchNorms, live or folded with fold-bn --form keep"
    if not left:
        return "the model has no BatchNorm", hint
    name, reason = next(iter(left.items()))
    return f"no BatchNorm can take statistics: {name}: {reason}", hint


def _fitted(
    checkpoint: Checkpoint,
    examination: Examination,
    original: Checkpoint | None,
    places: Mapping[str, Place],
    request: RecalibrateRequest,
    writing: Writing,
    device: torch.device,
) -> _Fitted:
    """Measure before, re-estimate, measure after; raises where that is no better."""
    with _loaded(checkpoint, examination, device, writing) as model:
        fitting, held = _samples(model, checkpoint, request, original is not None)
        theirs = None
        if original is not None:
            with _loaded(original, examination, device, writing) as teacher:
                theirs = outputs_of(teacher, held)
        figures = {"before": measured(outputs_of(model, held), held, theirs)}
        statistics = _refitted(model, places, fitting, writing)
        figures["after"] = measured(outputs_of(model, held), held, theirs)
        if theirs is not None and figures["before"].loss is not None:
            figures["reference"] = measured(theirs, held, theirs)
    _check_better(figures)
    named = None if original is None else original.model_id
    return _Fitted(places, statistics, figures, len(fitting), len(held), fitting.about, named)


def _refitted(
    model: nn.Module, places: Mapping[str, Place], fitting: Samples, writing: Writing
) -> dict[str, Statistics]:
    """Re-insert the norms, measure them anew and leave the model with the result."""
    for name, place in places.items():
        placed(model.get_submodule(name), place.values, place.dtypes)

    def store(name: str, found: Statistics) -> None:
        values = replace(places[name].values, mean=found.mean, variance=found.variance)
        placed(model.get_submodule(name), values, places[name].dtypes)

    axes = {name: place.norm.axis for name, place in places.items()}
    device = next(model.parameters()).device
    free = available_memory_bytes()
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    with writing.progress.task("re-estimate the norms", len(places), "steps") as advance:
        return reestimate(
            model, axes, fitting,
            memory_bytes=free // _ACTIVATIONS, store=store, advance=advance,
        )  # fmt: skip


@contextmanager
def _loaded(
    checkpoint: Checkpoint, examination: Examination, device: torch.device, writing: Writing
) -> Iterator[nn.Module]:
    """The model in float32 (statistics of a narrower one would be of its rounding too)."""
    source = ModelSource(
        checkpoint.directory, examination.model_class, allow_pickle=writing.allow_pickle
    )
    with (
        tempfile.TemporaryDirectory(prefix="normsurgery-recalibrate-") as scratch,
        load_model(source, dtype=torch.float32, device=device, scratch=Path(scratch)) as loaded,
    ):
        if loaded.offloaded:
            raise ResourceError(
                "the model does not fit into memory in float32",
                "recalibrate on a machine with more memory",
            )
        yield loaded.model


def _samples(
    model: nn.Module, checkpoint: Checkpoint, request: RecalibrateRequest, referenced: bool
) -> tuple[Samples, Samples]:
    """What is fitted to, and what is held out."""
    assert request.data is not None  # `recalibrate_command` has looked
    samples = read_arrays(
        request.data, model, checkpoint.directory, limit=request.samples, seed=request.seed,
        trust_remote_code=request.trust_remote_code,
    )  # fmt: skip
    if len(samples) < 4:
        raise UsageError(
            f"{samples.about['source']} holds {len(samples)} samples, a quarter is held out",
            "give at least 4 of them; a few hundred are better",
        )
    if samples.labels is None and not referenced:
        reason = "".join(f" ({note})" for note in samples.notes)
        raise UsageError(
            f"without labels{reason} there is nothing to tell whether it is better",
            "put images into a sub-folder a class, or name the original: --reference ORIGINAL",
        )
    return held_out(samples, _HELD_OUT, seed=request.seed)


def _check_better(figures: Mapping[str, HeldOut]) -> None:
    before, after = figures["before"].figure, figures["after"].figure
    if after < before:
        return
    kind = "loss" if figures["before"].loss is not None else "error against the reference"
    raise VerificationError(
        f"new statistics do not help: the held-out {kind} goes from {before:.4g} to {after:.4g}; "
        "nothing was written",
        "recalibrate after a lossy step, on data like the training data; more of it helps",
    )


def _written(
    checkpoint: Checkpoint,
    examination: Examination,
    fitted: _Fitted,
    left: Mapping[str, str],
    request: RecalibrateRequest,
    writing: Writing,
) -> dict[str, Any]:
    source, doors = one_door(checkpoint, examination.model_class)
    values = fitted.values()
    result, receipt = recalibrate(
        source, examination.names,
        {name: (fitted.places[name].norm, new) for name, new in values.items()},
        reinserted_norms=sum(fitted.places[name].reinserted for name in values),
        samples=fitted.fitting,
    )  # fmt: skip
    unreached = sorted(set(fitted.places) - set(values))
    left = {**left, **dict.fromkeys(unreached, "the samples do not reach it")}
    document = _document(checkpoint, examination, fitted, left, receipt)
    document["notes"] = [*doors, *fitted.about.get("notes", ())]
    if request.dry_run:
        return document | {"plan": writing.plan(checkpoint, result, [receipt], "fitted")}

    def verified(staged: Path) -> dict[str, Any]:
        if not request.verify:
            return unverified("fitted")
        return verify_same_class(
            checkpoint, examination, staged, contract="fitted", progress=writing.progress,
            allow_pickle=writing.allow_pickle, data=request.data, device=request.device,
            seed=request.seed,
        )  # fmt: skip

    step = {"surgery": "fold", "what": [RECALIBRATE], "reference": fitted.reference}
    recipe = {"source": checkpoint.model_id, "steps": [step]}
    papers = {**document, "recipe": recipe}
    return document | writing.write(checkpoint, result, papers, verified, notes=document["notes"])


def _document(
    checkpoint: Checkpoint,
    examination: Examination,
    fitted: _Fitted,
    left: Mapping[str, str],
    receipt: Receipt,
) -> dict[str, Any]:
    norms = receipt.parameters["norms"]
    row = {"name": RECALIBRATE, "applies": True, "count": norms, "left": dict(left), "notes": [],
           "why_not": None}  # fmt: skip
    return {
        "command": "fold",
        "version": VERSION,
        "source": source_document(checkpoint, examination.model_class.__name__),
        "output": None,
        "target": target_document(examination, "only the norms' values change"),
        "receipts": [receipt.to_dict()],
        "folds": [row],
        "recalibration": {
            "norms": norms,
            "reinserted": receipt.parameters["reinserted"],
            "reference_model": fitted.reference,
            "samples": fitted.fitting,
            "held_out": fitted.held_out,
            "data": dict(fitted.about),
            **{name: found.to_dict() for name, found in fitted.figures.items()},
        },
        "verification": unverified("fitted"),
    }
