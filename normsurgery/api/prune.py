"""`prune`: fewer blocks; which ones is said or measured, and what went is fitted into the rest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.proof import Proof
from normsurgery.anatomy.stacks import choose_stack, read_stacks
from normsurgery.api.arrange import blocks_document
from normsurgery.api.asked import recorded
from normsurgery.api.choosing import Choice, Method
from normsurgery.api.document import peak_memory_bytes, source_document
from normsurgery.api.pruning import PruneRequest, Pruning, start
from normsurgery.api.result import Result
from normsurgery.api.same_class import stored_as, target_document, unverified, verify_same_class
from normsurgery.api.texts import TextRequest
from normsurgery.api.writing import Writing
from normsurgery.calibrate.fit.sequential import Fitted
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError, VerificationError
from normsurgery.report.progress import Progress, Silent
from normsurgery.surgery.arrange import Arrangement
from normsurgery.surgery.block_lists import parse_drop
from normsurgery.surgery.cast import stored_dtype
from normsurgery.surgery.receipt import Receipt
from normsurgery.version import VERSION

Substitute = Literal["none", "replaceme", "refit", "merge"]
Objective = Literal["squares", "cosine"]
Heal = Literal["none", "sequential"]

NOTHING_FITTED = (
    "nothing was fitted: no writer of a block that stays could be set, or none lowered the error "
    "on held-out text; the result is the plain drop"
)


class PruneResult(Result):
    """What `prune` did (or, on a dry run, would do), as a document."""


@recorded
def prune(
    model: str | Path,
    output: str | Path,
    *,
    drop: str | int,
    stack: str | None = None,
    method: Method | None = None,
    iterative: bool = False,
    explain: bool = False,
    substitute: Substitute = "none",
    objective: Objective = "squares",
    heal: Heal = "none",
    data: str | None = None,
    text_column: str = "text",
    tokens: int = 65_536,
    max_length: int | None = None,
    other_data: str | None = None,
    dtype: str | None = None,
    device: str = "auto",
    dry_run: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    max_shard_size: int | str | None = None,
    verify: bool = True,
    keep_failed: bool = False,
    allow_nonfinite: bool = False,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    plots: bool = False,
    progress: Progress | None = None,
) -> PruneResult:
    """Drop blocks of a stack; optionally fit what is left to what went, without gradients.

    drop: "3" blocks, "25%" of them, or these: "4,9", "5-7". method, iterative: how the blocks are
    chosen where they are not named; None is "trial" where something is fitted, else "angular".
    substitute: what stands in for dropped blocks, fitted in the block before each gap: nothing,
    ReplaceMe's linear map, its writers refitted, or its heads and neurons exchanged for theirs
    where that is better. heal: every later block refitted in order.
    data, text_column, tokens, max_length: the text that is measured (`calibrate.text.sources`).
    other_data: another domain that losses are reported on. explain: score every run of blocks,
    also where they are named, and draw them: plots=True, which draws all that was measured into
    output/plots and shows it in the card. Contract: fitted, or lossy where
    nothing is fitted. An interrupted measurement goes on where it was when the same is asked
    again. In several processes (torchrun, `accelerate launch`) the text is shared, and the first
    one writes.
    Sources: arXiv 2403.17887, 2403.03853, 2411.15558, 2505.02819.
    Raises UsageError for an impossible request or too little text, UnsupportedModelError where
    the class cannot express the result or the fit; other SurgeryErrors as they say.
    """
    started = time.monotonic()
    if dtype is not None:
        stored_dtype(dtype)
    writing = Writing(
        Path(output), overwrite, max_shard_size, keep_failed, allow_nonfinite, allow_pickle, seed,
        progress or Silent(), plots or explain,
    )  # fmt: skip
    checkpoint = writing.open_source(model)
    examination = examine(checkpoint, trust_remote_code=trust_remote_code)
    chosen = choose_stack(read_stacks(examination), stack)
    request = PruneRequest(
        parse_drop(str(drop), chosen.depth), method or _usual(substitute, heal), iterative,
        explain, substitute, objective, heal,
        TextRequest(data, text_column, tokens, max_length, other_data, seed),
    )  # fmt: skip
    pruning = start(
        checkpoint, examination, chosen, request, writing.output, device=device,
        progress=writing.progress, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    try:
        document = _pruned(pruning, writing, dtype=dtype, dry_run=dry_run, verify=verify)
    except (UsageError, UnsupportedModelError, VerificationError):
        pruning.discard()
        raise
    pruning.close()
    document["seconds"] = round(time.monotonic() - started, 3)
    document["peak_memory_bytes"] = peak_memory_bytes()
    return PruneResult(document)


def _pruned(
    pruning: Pruning, writing: Writing, *, dtype: str | None, dry_run: bool, verify: bool
) -> dict[str, Any]:
    choice = pruning.choose()
    arrangement = pruning.arrange(choice)
    proof = arrangement.prove()
    # A plan reads headers, and the text where only it can tell which blocks go; it fits nothing.
    fitted = Fitted({}) if dry_run else pruning.fit(arrangement)
    result, receipts, notes = pruning.operate(arrangement, fitted)
    result, receipts = stored_as(result, receipts, dtype)
    document = _document(pruning, choice, arrangement, proof, fitted, receipts)
    document["notes"] += notes
    if dry_run:
        contract = "fitted" if pruning.request.fits else "lossy"
        return document | {"plan": writing.plan(pruning.checkpoint, result, receipts, contract)}
    if pruning.processes.rank == 0:
        document |= _write(pruning, arrangement, result, document, writing, dtype, verify=verify)
    return document


def _document(
    pruning: Pruning,
    choice: Choice,
    arrangement: Arrangement,
    proof: Proof,
    fitted: Fitted,
    receipts: list[Receipt],
) -> dict[str, Any]:
    request, examination = pruning.request, pruning.examination
    document: dict[str, Any] = {
        "command": "prune",
        "version": VERSION,
        "source": source_document(pruning.checkpoint, examination.model_class.__name__),
        "output": None,
        "target": target_document(examination, "the blocks that stay are of its own kinds"),
        "receipts": [receipt.to_dict() for receipt in receipts],
        "blocks": blocks_document(arrangement),
        "method": "named" if request.drop.blocks else request.method,
        "explain": request.explain,
        "scores": list(choice.scores),
        "proof": proof.to_dict(),
        "notes": list(choice.notes),
        "verification": unverified(_contract(fitted)),
    }
    if request.needs_text:
        texts = pruning.texts
        document["calibration"] = texts.fitted.about
        document["notes"] += texts.fitted.about.get("notes", [])
    if fitted.weights or fitted.record:
        document["substitution"] = {"name": request.substitute, "seams": _seams(arrangement)}
        if request.substitute == "replaceme":
            document["substitution"]["objective"] = request.objective
        document["healing"] = {"name": request.heal, "steps": fitted.record}
        if not fitted.weights:
            document["notes"].append(NOTHING_FITTED)
    return document


def _usual(substitute: str, heal: str) -> Method:
    """What no score tells before the fit, a trial does; where nothing is fitted, angles."""
    return "angular" if substitute == heal == "none" else "trial"


def _contract(fitted: Fitted) -> str:
    return "fitted" if fitted.weights else "lossy"


def _seams(arrangement: Arrangement) -> list[int]:
    """The kept blocks that stand before a gap."""
    return [
        block
        for block, after in zip(
            arrangement.order, [*arrangement.order[1:], arrangement.stack.depth], strict=True
        )
        if after != block + 1
    ]


def _write(
    pruning: Pruning,
    arrangement: Arrangement,
    result: Checkpoint,
    document: dict[str, Any],
    writing: Writing,
    dtype: str | None,
    *,
    verify: bool,
) -> dict[str, Any]:
    """Write the result, hold it against the source, measure what it costs."""
    judged: dict[str, Any] = {}
    contract: str = document["verification"]["contract"]

    def verified(staged: Path) -> dict[str, Any]:
        if not verify:
            return unverified(contract)
        found = verify_same_class(
            pruning.checkpoint, pruning.examination, staged, contract=contract,
            progress=writing.progress, allow_pickle=writing.allow_pickle,
            device=str(pruning.device), seed=writing.seed, dtype=dtype,
        )  # fmt: skip
        judged.update(pruning.judged(staged, arrangement))
        judged["notes"] = [*document["notes"], *judged.get("notes", ())]
        return found

    papers = {**document, "recipe": _recipe(pruning, dtype)}
    added = writing.write(
        pruning.checkpoint, result, papers, verified, notes=document["notes"], beside=judged
    )
    return added | judged


def _recipe(pruning: Pruning, dtype: str | None) -> dict[str, Any]:
    request = pruning.request
    drop = request.drop
    step = {
        "surgery": "prune",
        "drop": str(drop),
        "stack": pruning.stack.name,
        **{key: getattr(request, key) for key in _OPTIONS},
        **{key: value for key, value in vars(request.text).items() if key != "seed"},
        "dtype": dtype,
    }
    return {"source": pruning.checkpoint.model_id, "steps": [step]}


_OPTIONS = ("method", "iterative", "explain", "substitute", "objective", "heal")
