"""`convert`: a verified RMSNorm checkpoint from a LayerNorm checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normsurgery.anatomy.proof import Proof
from normsurgery.anatomy.runtime import single_thread
from normsurgery.api.document import peak_memory_bytes, source_document
from normsurgery.api.operation import Operation, Request, Target, To
from normsurgery.api.rmsnorm import plan_operation
from normsurgery.api.sizes import parse_size
from normsurgery.api.verify import MAX_LENGTH
from normsurgery.checkpoint import (
    Checkpoint,
    FileRecord,
    Staging,
    check_destination,
    hash_files,
    open_checkpoint,
    planned_bytes,
    write_weights,
)
from normsurgery.errors import VerificationError
from normsurgery.report.card import model_card
from normsurgery.report.progress import Progress, Silent
from normsurgery.surgery.receipt import Receipt, config_changes
from normsurgery.version import VERSION


@dataclass(frozen=True)
class ConvertResult:
    """What `convert` did (or, on a dry run, would do), as a document."""

    document: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        return self.document


@dataclass(frozen=True)
class _Writing:
    """How the result is written and verified."""

    output: Path
    overwrite: bool
    max_shard_bytes: int | None
    verify: bool
    keep_failed: bool
    allow_nonfinite: bool
    allow_pickle: bool
    dtype: str | None
    device: str
    data: str | Path | None
    seed: int
    progress: Progress


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
    writing = _Writing(
        Path(output), overwrite, parse_size(max_shard_size), verify, keep_failed, allow_nonfinite,
        allow_pickle, dtype, device, data, seed, progress or Silent(),
    )  # fmt: skip
    check_destination(writing.output, overwrite=overwrite, source=None)  # before any download
    checkpoint = open_checkpoint(model, allow_pickle=allow_pickle)
    check_destination(writing.output, overwrite=overwrite, source=checkpoint.directory)
    request = Request(to, target, fold_affine, untie, dtype, part)
    operation = plan_operation(checkpoint, request, trust_remote_code=trust_remote_code)
    proof = operation.prove()
    result, receipts = operation.operate(checkpoint)
    document = _document(checkpoint, operation, receipts, proof)
    recipe = {"source": checkpoint.model_id, "steps": [{"surgery": "convert", **vars(request)}]}
    if dry_run:
        document["plan"] = _plan(checkpoint, result, receipts, writing)
    else:
        papers = {**document, "recipe": recipe}
        document |= _write(checkpoint, result, operation, papers, writing)
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
        "verification": {"verdict": "skipped", "contract": "exact"},
    }


def _plan(
    checkpoint: Checkpoint, result: Checkpoint, receipts: Sequence[Receipt], writing: _Writing
) -> dict[str, Any]:
    import shutil

    parent = writing.output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    changed = {name for receipt in receipts for name in receipt.changed}
    largest = max((tensor.nbytes for tensor in result.values()), default=0)
    return {
        "bytes": planned_bytes(result),
        "disk_free": shutil.disk_usage(parent).free,
        "disk_needed": planned_bytes(result),
        "peak_memory_bytes": peak_memory_bytes() + 2 * largest,
        "config_diff": config_changes(checkpoint.config, result.config),
        "contract": "exact",
        "tensors": _tensor_counts(checkpoint, result, changed),
    }


def _tensor_counts(checkpoint: Checkpoint, result: Checkpoint, changed: set[str]) -> dict[str, int]:
    added = [name for name in result if name not in checkpoint]
    return {
        "kept": len(result) - len(added) - len(changed & set(result)),
        "changed": len(changed & set(result)),
        "added": len(added),
        "dropped": sum(name not in result for name in checkpoint),
    }


def _write(
    checkpoint: Checkpoint,
    result: Checkpoint,
    operation: Operation,
    document: dict[str, Any],
    writing: _Writing,
) -> dict[str, Any]:
    """Stage, verify and publish; what this adds to the document."""
    with Staging(
        writing.output,
        overwrite=writing.overwrite,
        source=checkpoint.directory,
        needed_bytes=planned_bytes(result),
    ) as staging:
        # One thread: slabs fit the cache, and torch's idle threads would spin for nothing.
        task = writing.progress.task("write", planned_bytes(result), "bytes")
        with single_thread(), task as advance:
            files = write_weights(
                result,
                staging.path,
                max_shard_bytes=writing.max_shard_bytes,
                refuse_nonfinite=not writing.allow_nonfinite,
                progress=advance,
            )
        verification = _verification(checkpoint, operation, staging.path, writing)
        added = {"output": str(writing.output), "verification": verification}
        _write_papers(staging.path, checkpoint, operation, {**document, **added}, files, writing)
        if verification["verdict"] == "fail":
            _fail(staging, verification, writing)
        staging.publish()
    return added


def _verification(
    checkpoint: Checkpoint, operation: Operation, staged: Path, writing: _Writing
) -> dict[str, Any]:
    """Verify each form that the staged checkpoint opens in against the source."""
    if not writing.verify:
        return {"verdict": "skipped", "contract": "exact"}
    from normsurgery.verify import ModelSource, VerifyOptions, judge, run_reference

    options = VerifyOptions(
        data=writing.data,
        device=writing.device,
        seed=writing.seed,
        dtype=writing.dtype,
        contract="exact",
        outputs=operation.guaranteed_outputs,
        max_length=_longest(operation),
    )
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


def _fail(staging: Staging, verification: Mapping[str, Any], writing: _Writing) -> None:
    failed = [
        f"{form}: {one.get('why') or 'see the figures'}"
        for form, one in verification.items()
        if isinstance(one, dict) and one["verdict"] == "fail"
    ]
    hint = "--keep-failed keeps the result aside for study"
    if writing.keep_failed:
        kept = writing.output.with_name(f"{writing.output.name}.failed")
        staging.keep(kept)
        hint = f"the result is kept in {kept}"
    raise VerificationError(f"verification failed, {'; '.join(failed)}", hint)


def _write_papers(
    staged: Path,
    checkpoint: Checkpoint,
    operation: Operation,
    document: dict[str, Any],
    files: Sequence[FileRecord],
    writing: _Writing,
) -> None:
    """surgery.json and the model card: no local path and no time, so that runs agree."""
    source_files = hash_files(checkpoint.weight_files)
    papers = {
        key: value
        for key, value in document.items()
        if key not in ("output", "seconds", "peak_memory_bytes")
    }
    papers["files"] = {
        "source": {record.name: record.sha256 for record in source_files},
        "result": {record.name: record.sha256 for record in files},
    }
    papers["versions"] = _versions()
    papers["seed"] = writing.seed
    text = json.dumps(papers, indent=2, ensure_ascii=False) + "\n"
    (staged / "surgery.json").write_text(text, encoding="utf-8")
    card = staged / "README.md"
    text_of = {"encoding": "utf-8", "errors": "surrogateescape"}  # a card's odd bytes are kept
    source_card = card.read_text(**text_of) if card.is_file() else None
    card.write_text(model_card(papers, source_card, notes=operation.notes), **text_of)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "safetensors")
    return {"normsurgery": VERSION, **{name: version(name) for name in names}}
