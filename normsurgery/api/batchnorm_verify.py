"""Verify a folded checkpoint: the saved files against the source, every form that they open in.

A model that selects (the best of many boxes by their scores) is not continuous: where two scores
are as close as one rounding, the order of its answers turns, in the source as in the result. What
such a model answers in its storage dtype is no measure of a fold, so it is certified in float64: on
the real weights, widened before they are folded, held to the float64 bound. The saved files are
then held to loading cleanly and staying finite.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from normsurgery.anatomy.push import trace_of
from normsurgery.anatomy.runtime import single_thread
from normsurgery.api.batchnorm import BatchNormFolding
from normsurgery.api.verify import MAX_LENGTH
from normsurgery.api.writing import Writing
from normsurgery.checkpoint import Checkpoint, write_weights
from normsurgery.surgery.cast import cast
from normsurgery.verify import ModelSource, VerifyOptions, judge, run_reference

_SELECTING = {"topk", "sort", "argsort", "argmax", "argmin", "nms"}


def verify_folding(
    checkpoint: Checkpoint,
    folding: BatchNormFolding,
    staged: Path,
    writing: Writing,
    **given: Any,
) -> dict[str, Any]:
    """The `verification` of a staged directory. given: data, device, dtype, seed."""
    examination = folding.examination
    options = VerifyOptions(
        contract="exact", outputs=tuple(examination.anatomy.outputs), max_length=MAX_LENGTH, **given
    )
    source = ModelSource(
        checkpoint.directory, examination.model_class, allow_pickle=writing.allow_pickle
    )
    reference = run_reference(source, options, progress=writing.progress)
    found: dict[str, Any] = {}
    for form, class_of in folding.forms.items():
        candidate = ModelSource(staged, class_of(staged))
        measured = judge(reference, candidate, progress=writing.progress)
        found[form] = measured.to_dict()
        if not measured.passed and selects(folding):
            loads = judge(reference, candidate, contract="lossy", progress=writing.progress)
            if loads.passed:
                found[form] = _certified(checkpoint, folding, options, form, writing)
    verdict = "pass" if all(one["verdict"] == "pass" for one in found.values()) else "fail"
    return {"verdict": verdict, "contract": "exact", **found}


def selects(folding: BatchNormFolding) -> bool:
    """Whether the model's forward orders or picks by value."""
    return any(node.op in _SELECTING for node in trace_of(folding.examination.twin).nodes)


def _certified(
    checkpoint: Checkpoint,
    folding: BatchNormFolding,
    options: VerifyOptions,
    form: str,
    writing: Writing,
) -> dict[str, Any]:
    """The same fold of the real weights in float64, against these weights in float64."""
    wide, _ = cast(checkpoint, "F64")
    with tempfile.TemporaryDirectory(prefix="normsurgery-float64-") as scratch:
        before, after = Path(scratch, "source"), Path(scratch, "result")
        _write(wide, before)
        _write(folding.operate_in_float64(wide), after)
        options = replace(options, dtype="float64")
        reference = run_reference(
            ModelSource(before, folding.examination.model_class), options, progress=writing.progress
        )
        candidate = ModelSource(after, folding.forms[form](after))
        found = judge(reference, candidate, progress=writing.progress).to_dict()
    found["notes"] = [
        *found["notes"],
        "certified in float64, on the real weights: the model picks by score, and one rounding of "
        "a weight turns the order of what it picks; the saved files load cleanly and stay finite",
    ]
    return found


@single_thread()
def _write(checkpoint: Checkpoint, directory: Path) -> None:
    directory.mkdir()
    write_weights(checkpoint, directory, hashes=False)
