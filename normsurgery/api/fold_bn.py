"""`fold_bn`: a checkpoint whose BatchNorms are folded into the convolutions and linears."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from normsurgery.anatomy.proof import Proof
from normsurgery.api.asked import recorded
from normsurgery.api.batchnorm import BatchNormFolding, plan_folding
from normsurgery.api.batchnorm_verify import selects, verify_folding
from normsurgery.api.document import peak_memory_bytes, source_document
from normsurgery.api.handover import Claim
from normsurgery.api.result import Result
from normsurgery.api.same_class import unverified
from normsurgery.api.verify import MAX_LENGTH
from normsurgery.api.writing import Writing
from normsurgery.checkpoint import Checkpoint
from normsurgery.report.progress import Progress, Silent
from normsurgery.surgery.receipt import Receipt
from normsurgery.version import VERSION

BatchNormForm = Literal["keep", "native", "graft"]


class FoldBnResult(Result):
    """What `fold_bn` did (or, on a dry run, would do), as a document."""


@recorded
def fold_bn(
    model: str | Path,
    output: str | Path,
    *,
    form: BatchNormForm = "keep",
    example: str | Path | None = None,
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
) -> FoldBnResult:
    """Fold every BatchNorm that folds into the convolutions and linears beside it, exactly.

    Which norm folds into what is read off a traced tiny twin and proved there in float64, with two
    negative controls; the folds are then made on the real files and the saved files verified.
    form: "keep" has the source's names and shapes, each norm reduced to x + shift; "graft" has no
    such modules, merges parallel convolutions, and comes with a modeling file; "native" switches
    the norms off in the source's own class, where its configuration can.
    example: an image, .wav, .npy or .npz file (or a folder) for the trace, where the model's inputs
    cannot be made up from its configuration; also what is verified on, unless `data` is given.
    Raises UnsupportedModelError with the reasons where no norm folds or the form is not to be had,
    VerificationError where a proof or the verification fails; other SurgeryErrors as they say.
    """
    started = time.monotonic()
    writing = Writing(
        Path(output), overwrite, max_shard_size, keep_failed, allow_nonfinite, allow_pickle, seed,
        progress or Silent(),
    )  # fmt: skip
    checkpoint = writing.open_source(model)
    folding = plan_folding(
        checkpoint, form=form, dtype=dtype, example=example, trust_remote_code=trust_remote_code
    )
    proof = folding.prove()
    result, receipts = folding.operate(checkpoint)
    document = _document(checkpoint, folding, receipts, proof)
    recipe = {
        "source": checkpoint.model_id,
        "steps": [{"surgery": "fold_bn", "form": form, "dtype": dtype}],
    }
    given = {
        "data": example if data is None else data, "device": device, "dtype": dtype, "seed": seed,
    }  # fmt: skip
    writing.offer(checkpoint, result, _claim(folding, given, verify=verify))
    if dry_run:
        document["plan"] = writing.plan(checkpoint, result, receipts, "exact")
    else:

        def verified(staged: Path) -> dict[str, Any]:
            if not verify:
                return unverified("exact")
            return verify_folding(checkpoint, folding, staged, writing, **given)

        papers = {**document, "recipe": recipe}
        document |= writing.write(checkpoint, result, papers, verified, notes=_card_notes(folding))
    document["seconds"] = round(time.monotonic() - started, 3)
    document["peak_memory_bytes"] = peak_memory_bytes()
    return FoldBnResult(document)


def _claim(folding: BatchNormFolding, given: dict[str, Any], *, verify: bool) -> Claim:
    """What the result promises, for a pass of several steps."""
    examination = folding.examination
    picks = "the model picks by score, and may have to be certified in float64, this step by itself"
    return Claim(
        folding.operate_in_float64, examination.model_class, tuple(examination.anatomy.outputs),
        folding.forms, given, verify, MAX_LENGTH, alone=picks if selects(folding) else "",
    )  # fmt: skip


def _document(
    checkpoint: Checkpoint,
    folding: BatchNormFolding,
    receipts: Sequence[Receipt],
    proof: Proof,
) -> dict[str, Any]:
    return {
        "command": "fold-bn",
        "version": VERSION,
        "source": source_document(checkpoint, folding.examination.model_class.__name__),
        "output": None,
        "target": folding.target,
        "batch_norms": batch_norms_document(folding),
        "receipts": [receipt.to_dict() for receipt in receipts],
        "proof": proof.to_dict(),
        "notes": list(folding.notes),
        "verification": unverified("exact"),
    }


def batch_norms_document(folding: BatchNormFolding) -> dict[str, Any]:
    """Every BatchNorm with what becomes of it: nothing is passed over in silence."""
    plan = folding.plan
    folded = {site.name for site in plan.sites}
    rows = [
        {
            "name": site.name,
            "class": site.norm.class_name,
            "kind": site.kind if site.name in folded else _left_kind(site.kind),
            "into": [m.weight for m in site.maps] if site.name in folded else [],
            "gone": site.name in folding.gone,
            "reason": plan.left.get(site.name) or None,
        }
        for site in folding.found.sites
    ]
    return {
        "form": "native" if folding.switched else plan.form,
        "folded": len(plan.sites),
        "left": len(plan.left),
        "merged_maps": sum(len(merge.others) for merge in plan.merges),
        "merges_left": dict(plan.merges_left),
        "norms": rows,
    }


def _left_kind(kind: str) -> str:
    return "dead" if kind == "dead" else "stays"


def _card_notes(folding: BatchNormFolding) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, reason in folding.plan.left.items():
        reasons.setdefault(reason, []).append(name)
    stay = [
        f"not folded: {', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)}: "
        f"{reason}"
        for reason, names in reasons.items()
    ]
    return [*folding.notes, *stay]
