"""`convert`: a verified RMSNorm checkpoint from a LayerNorm checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normsurgery.anatomy.proof import Proof
from normsurgery.api.asked import recorded
from normsurgery.api.document import peak_memory_bytes, source_document
from normsurgery.api.handover import Claim
from normsurgery.api.operation import Operation, Request, Target, To
from normsurgery.api.result import Result
from normsurgery.api.rmsnorm import plan_operation
from normsurgery.api.verify import MAX_LENGTH
from normsurgery.api.writing import Writing
from normsurgery.checkpoint import Checkpoint
from normsurgery.report.progress import Progress, Silent
from normsurgery.surgery.receipt import Receipt
from normsurgery.verify import ModelSource, VerifyOptions, judge, run_reference
from normsurgery.version import VERSION

_UNVERIFIED = {"verdict": "skipped", "contract": "exact"}


class ConvertResult(Result):
    """What `convert` did (or, on a dry run, would do), as a document."""


@recorded
def convert(
    model: str | Path,
    output: str | Path,
    *,
    to: To = "rmsnorm",
    target: Target = "auto",
    fold_affine: bool = False,
    untie: bool = False,
    part: str | None = None,
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
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> ConvertResult:
    """Turn every LayerNorm that reads a residual stream into an RMSNorm, exactly.

    The surgery is found and proved on a tiny twin in float64, applied to the real files one tensor
    at a time, and verified on the saved files before they move to `output`.
    target: "native" is another class of transformers that has RMSNorm (OLMo becomes Llama), "stock"
    the source's own with a modeling file beside it, "graft" the modeling file alone; "auto" is
    native where that costs nothing, else stock. part: a module such as "vision_model"; only the
    streams in it are converted.
    Source: arXiv 2305.14858.
    Raises UnsupportedModelError with the reason where the mean of a stream cannot be removed,
    VerificationError where a proof or the verification fails; other SurgeryErrors as they say.
    """
    started = time.monotonic()
    writing = Writing(
        Path(output), overwrite, max_shard_size, keep_failed, allow_nonfinite, allow_pickle, seed,
        progress or Silent(),
    )  # fmt: skip
    checkpoint = writing.open_source(model)
    request = Request(to, target, fold_affine, untie, dtype, part)
    operation = plan_operation(checkpoint, request, trust_remote_code=trust_remote_code)
    proof = operation.prove()
    result, receipts = operation.operate(checkpoint)
    document = _document(checkpoint, operation, receipts, proof)
    recipe = {"source": checkpoint.model_id, "steps": [{"surgery": "convert", **vars(request)}]}
    given = {"data": data, "device": device, "seed": seed, "dtype": dtype}
    writing.offer(checkpoint, result, _claim(operation, given, verify=verify))
    if dry_run:
        document["plan"] = writing.plan(checkpoint, result, receipts, "exact")
    else:

        def verified(staged: Path) -> dict[str, Any]:
            if not verify:
                return dict(_UNVERIFIED)
            options = _options(operation, **given)
            return _verification(checkpoint, operation, staged, options, writing)

        papers = {**document, "recipe": recipe}
        document |= writing.write(checkpoint, result, papers, verified, notes=operation.notes)
    document["seconds"] = round(time.monotonic() - started, 3)
    document["peak_memory_bytes"] = peak_memory_bytes()
    return ConvertResult(document)


def _document(
    checkpoint: Checkpoint, operation: Operation, receipts: Sequence[Receipt], proof: Proof
) -> dict[str, Any]:
    return {
        "command": "convert",
        "version": VERSION,
        "source": source_document(checkpoint, operation.examination.model_class.__name__),
        "output": None,
        "target": {
            "form": operation.form,
            "architecture": operation.architecture,
            "auto_class": operation.auto_class,
            "auto_classes": list(operation.classes),
            "engines": list(operation.engines),
            "why": operation.why,
            "alternatives": list(operation.alternatives),
        },
        "receipts": [receipt.to_dict() for receipt in receipts],
        "proof": proof.to_dict(),
        "notes": list(operation.notes),
        "verification": dict(_UNVERIFIED),
    }


def _claim(operation: Operation, given: dict[str, Any], *, verify: bool) -> Claim:
    """What the result promises, for a pass of several steps."""
    return Claim(
        operation.operate_in_float64, operation.examination.model_class,
        operation.guaranteed_outputs, operation.forms, given, verify, _longest(operation),
    )  # fmt: skip


def _options(operation: Operation, **given: Any) -> VerifyOptions:
    return VerifyOptions(
        contract="exact",
        outputs=operation.guaranteed_outputs,
        max_length=_longest(operation),
        **given,
    )


def _verification(
    checkpoint: Checkpoint,
    operation: Operation,
    staged: Path,
    options: VerifyOptions,
    writing: Writing,
) -> dict[str, Any]:
    """Verify each form that the staged checkpoint opens in against the source."""
    source = ModelSource(
        checkpoint.directory, operation.examination.model_class, allow_pickle=writing.allow_pickle
    )
    reference = run_reference(source, options, progress=writing.progress)
    found: dict[str, Any] = {}
    for form, class_of in operation.forms.items():
        candidate = ModelSource(staged, class_of(staged))
        found[form] = judge(reference, candidate, progress=writing.progress).to_dict()
    verdict = "pass" if all(one["verdict"] == "pass" for one in found.values()) else "fail"
    return {"verdict": verdict, "contract": "exact", **found}


def _longest(operation: Operation) -> int:
    """Tokens a row: two different classes may part late, so native outputs get longer inputs."""
    usual = 512 if operation.form == "native" else MAX_LENGTH
    return min(usual, operation.context or usual)
