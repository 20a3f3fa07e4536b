"""`arrange`: a checkpoint whose blocks stand in another order, repeated, left out or added."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.stacks import choose_stack, read_stacks
from normsurgery.api.asked import recorded
from normsurgery.api.document import peak_memory_bytes, source_document
from normsurgery.api.handover import Claim
from normsurgery.api.result import Result
from normsurgery.api.same_class import (
    same_class_claim,
    stored_as,
    target_document,
    unverified,
    verify_same_class,
)
from normsurgery.api.writing import Writing
from normsurgery.checkpoint import Checkpoint
from normsurgery.graft.doors import one_door
from normsurgery.report.progress import Progress, Silent
from normsurgery.surgery.arrange import Arrangement, plan_arrangement
from normsurgery.surgery.block_lists import parse_blocks
from normsurgery.surgery.cast import stored_dtype
from normsurgery.version import VERSION


class ArrangeResult(Result):
    """What `arrange` did (or, on a dry run, would do), as a document."""


@recorded
def arrange(
    model: str | Path,
    output: str | Path,
    *,
    blocks: str,
    stack: str | None = None,
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
) -> ArrangeResult:
    """Put a model's blocks in the order of a list; what config.json says of them moves along.

    blocks: such as "0-7,zero,8-11": numbers from 0, ranges with both ends, and "zero" for a block
    that is added and does nothing yet. stack: the name (or a piece of it) of the row of blocks,
    where a model has several; by default the one that its language head reads.
    The contract is exact where only zero blocks are added, else lossy: proved is that the result
    is the source with its blocks run in that order.
    Sources: arXiv 2407.09298, 2403.17887.
    Raises UsageError for a list that is none, UnsupportedModelError where the class cannot express
    the order; other SurgeryErrors as they say.
    """
    started = time.monotonic()
    if dtype is not None:
        stored_dtype(dtype)
    writing = Writing(
        Path(output), overwrite, max_shard_size, keep_failed, allow_nonfinite, allow_pickle, seed,
        progress or Silent(),
    )  # fmt: skip
    checkpoint = writing.open_source(model)
    examination = examine(checkpoint, trust_remote_code=trust_remote_code)
    chosen = choose_stack(read_stacks(examination), stack)
    sources = parse_blocks(blocks, chosen.depth)
    arrangement = plan_arrangement(checkpoint, examination, chosen, sources)
    proof = arrangement.prove()
    source, left_out = one_door(checkpoint, examination.model_class)
    result, receipt = arrangement.operate(source)
    result, receipts = stored_as(result, [receipt], dtype)
    contract, notes = arrangement.contract, [*notes_of(arrangement), *left_out]
    document: dict[str, Any] = {
        "command": "arrange",
        "version": VERSION,
        "source": source_document(checkpoint, examination.model_class.__name__),
        "output": None,
        "target": target_document(examination, "the blocks are of the kinds that its class builds"),
        "receipts": [one.to_dict() for one in receipts],
        "blocks": blocks_document(arrangement),
        "proof": proof.to_dict(),
        "notes": notes,
        "verification": unverified(contract),
    }
    step = {"surgery": "arrange", "blocks": blocks, "stack": chosen.name, "dtype": dtype}
    given = {"data": data, "device": device, "seed": seed, "dtype": dtype}
    writing.offer(checkpoint, result, _claim(arrangement, given, verify=verify))
    if dry_run:
        document["plan"] = writing.plan(checkpoint, result, receipts, contract)
    else:

        def verified(staged: Path) -> dict[str, Any]:
            if not verify:
                return unverified(contract)
            return verify_same_class(
                checkpoint, examination, staged, contract=contract, progress=writing.progress,
                allow_pickle=allow_pickle, **given,
            )  # fmt: skip

        recipe = {"source": checkpoint.model_id, "steps": [step]}
        document |= writing.write(
            checkpoint, result, {**document, "recipe": recipe}, verified, notes=notes
        )
    document["seconds"] = round(time.monotonic() - started, 3)
    document["peak_memory_bytes"] = peak_memory_bytes()
    return ArrangeResult(document)


def _claim(arrangement: Arrangement, given: dict[str, Any], *, verify: bool) -> Claim:
    """What the result promises, for a pass of several steps."""
    model_class = arrangement.examination.model_class

    def operate(source: Checkpoint) -> Checkpoint:
        return arrangement.operate(one_door(source, model_class)[0])[0]

    claim = same_class_claim(arrangement.examination, operate, given, verify=verify)
    return replace(claim, contract=arrangement.contract, renumbers=True)


def notes_of(arrangement: Arrangement) -> list[str]:
    """What a card must say of a stack that lost blocks."""
    gone = ", ".join(map(str, arrangement.dropped))
    if not gone:
        return []
    return [f"blocks {gone} of {arrangement.stack.name} are gone, and nothing makes up for them"]


def blocks_document(arrangement: Arrangement) -> dict[str, Any]:
    """The `blocks` of a result document: of which stack, how many before and after, which go."""
    return {
        "stack": arrangement.stack.name,
        "before": arrangement.stack.depth,
        "after": len(arrangement.sources),
        "order": list(arrangement.sources),
        "dropped": list(arrangement.dropped),
    }
