"""`fold`: what is constant or linear at inference, folded into the weights beside it, exactly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.api.asked import recorded
from normsurgery.api.document import peak_memory_bytes, source_document
from normsurgery.api.folding.composition import Composition, verify_folds
from normsurgery.api.folding.kurtosis import measured, unmeasured
from normsurgery.api.folding.planning import RECALIBRATE, asked_folds, fold_documents, plan_folds
from normsurgery.api.folding.recalibrate import RecalibrateRequest, recalibrate_command
from normsurgery.api.result import Result
from normsurgery.api.same_class import stored_as, target_document, unverified
from normsurgery.api.writing import Writing
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.graft.doors import one_door
from normsurgery.nearest import choices_hint
from normsurgery.report.progress import Progress, Silent
from normsurgery.surgery.cast import cast, stored_dtype, widens
from normsurgery.surgery.folds import FoldOptions, FoldPlan, Step
from normsurgery.surgery.receipt import Receipt
from normsurgery.surgery.untie import separate_head
from normsurgery.version import VERSION

ROTATIONS = ("hadamard", "random")


class FoldResult(Result):
    """What `fold` did (or, on a dry run, would do), as a document."""


@recorded
def fold(
    model: str | Path,
    output: str | Path,
    *,
    what: str | Sequence[str],
    untie: bool = False,
    rotation: Literal["hadamard", "random"] = "hadamard",
    dtype: str | None = None,
    device: str = "auto",
    dry_run: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    max_shard_size: int | str | None = None,
    verify: bool = True,
    keep_failed: bool = False,
    allow_nonfinite: bool = False,
    data: str | Path | None = None,
    reference: str | Path | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    plots: bool = False,
    progress: Progress | None = None,
) -> FoldResult:
    """Fold gains, biases, scales and normalizations into the weights beside them, exactly.

    what: one or more of weight-norm, image-norm, layerscale, mup, query-scale, norm,
    value-bias, key-bias, rotate, which are done in this order in one pass over the files. The
    result opens in the source's class. Or `recalibrate` alone: BatchNorm statistics measured anew
    on `data` after a lossy step, judged by labels or by `reference`, the original.
    untie: give a tied head a table of its own first, so that the last norm folds into it.
    rotation: which orthogonal matrices `rotate` uses. plots: draw the stream's outliers before and
    after it into output/plots, and show them in the card. data: text to verify on; for
    `recalibrate` images, sounds or arrays.
    Each fold is found by a trace and pushes on a tiny twin, and all are proved there together in
    float64; what a fold leaves is named with the reason.
    Raises UsageError for a fold that does not exist, UnsupportedModelError with the reasons where
    none applies; other SurgeryErrors as they say.
    """
    started = time.monotonic()
    asked = asked_folds(what)
    _check(dtype, rotation)
    writing = Writing(
        Path(output), overwrite, max_shard_size, keep_failed, allow_nonfinite, allow_pickle, seed,
        progress or Silent(), plots,
    )  # fmt: skip
    checkpoint = writing.open_source(model)
    if asked == (RECALIBRATE,):
        if untie or dtype is not None:
            raise UsageError(
                "recalibrate takes no --untie and no --dtype", "fold first, then again"
            )
        request = RecalibrateRequest(
            data, reference, device=device, seed=seed, verify=verify, dry_run=dry_run,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        return FoldResult(_timed(recalibrate_command(checkpoint, request, writing), started))
    examination = examine(checkpoint, trust_remote_code=trust_remote_code)
    options = FoldOptions(asked, untie, rotation, seed, trust_remote_code)
    composition, reasons = _composed(checkpoint, examination, options)
    proof = composition.prove()
    source, left_out = one_door(checkpoint, examination.model_class)
    result, receipts = _operated(composition, source, dtype)
    notes = [*_notes(composition.plans), *left_out]
    document: dict[str, Any] = {
        "command": "fold",
        "version": VERSION,
        "source": source_document(checkpoint, examination.model_class.__name__),
        "output": None,
        "target": target_document(examination, "the folds change values, not what its class runs"),
        "receipts": [one.to_dict() for one in receipts],
        "folds": fold_documents(composition.plans, reasons),
        "proof": proof.to_dict(),
        "notes": notes,
        "verification": unverified("exact"),
    }
    step = {
        "surgery": "fold", "what": list(asked), "untie": untie, "rotation": rotation,
        "dtype": dtype,
    }  # fmt: skip
    beside = unmeasured(receipts)
    if dry_run:
        document["plan"] = writing.plan(checkpoint, result, receipts, "exact")
    else:

        def verified(staged: Path) -> dict[str, Any]:
            if not verify:
                return unverified("exact")
            rotated = measured(
                checkpoint, composition, staged, receipts, data=data, device=device, seed=seed,
                dtype=dtype, allow_pickle=allow_pickle,
            )  # fmt: skip
            beside.update(rotated)
            return verify_folds(
                checkpoint, composition, staged, progress=writing.progress,
                allow_pickle=allow_pickle, data=data, device=device, seed=seed, dtype=dtype,
            )  # fmt: skip

        recipe = {"source": checkpoint.model_id, "steps": [step]}
        papers = {**document, "recipe": recipe}
        document |= writing.write(checkpoint, result, papers, verified, notes=notes, beside=beside)
    return FoldResult(_timed(document | beside, started))


def _timed(document: dict[str, Any], started: float) -> dict[str, Any]:
    seconds = round(time.monotonic() - started, 3)
    return {**document, "seconds": seconds, "peak_memory_bytes": peak_memory_bytes()}


def _check(dtype: str | None, rotation: str) -> None:
    if dtype is not None:
        stored_dtype(dtype)
    if rotation not in ROTATIONS:
        raise UsageError(f"--rotation {rotation} is unknown", choices_hint(rotation, ROTATIONS))


def _composed(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> tuple[Composition, dict[str, str]]:
    """The folds on the source, or on the source untied; and why others do not apply."""
    before: tuple[Step, ...] = ()
    after, loose = examination, checkpoint
    if options.untie:
        if not examination.anatomy.tied:
            raise UsageError("nothing is tied in this model", "leave --untie out")
        try:
            after, step = separate_head(
                checkpoint, examination, trust_remote_code=options.trust_remote_code
            )
        except UnsupportedModelError as error:
            raise UnsupportedModelError(error.message, "fold without --untie") from error
        before, loose = (step,), step(checkpoint)[0]
    plans, reasons = plan_folds(loose, after, options)
    return Composition(examination, before, tuple(plans)), reasons


def _operated(
    composition: Composition, source: Checkpoint, dtype: str | None
) -> tuple[Checkpoint, list[Receipt]]:
    """The result in its storage dtype: a wider one is taken before the folds round."""
    if dtype is not None and widens(source, stored_dtype(dtype)):
        wide, receipt = cast(source, stored_dtype(dtype))
        result, receipts = composition.operate(wide)
        return result, [receipt, *receipts]
    result, receipts = composition.operate(source)
    return stored_as(result, receipts, dtype)


def _notes(plans: Sequence[FoldPlan]) -> list[str]:
    return [f"{plan.name}: {note}" for plan in plans for note in plan.notes]
