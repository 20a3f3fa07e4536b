"""Which block of the teacher each block of the student answers to.

A kept block's output should be the stream that the teacher has just before the next kept block:
where nothing was cut between the two that is the same block's output, and at a seam it is what the
cut blocks would have made of it.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.stacks import Stack, read_stacks
from normsurgery.errors import UnsupportedModelError, UsageError

ZERO = "zero"


def text_stack(examination: Examination) -> Stack:
    """The blocks that the text passes through: those that the language head reads.

    Raises UnsupportedModelError where no stack, or more than one, can be meant.
    """
    stacks = read_stacks(examination)
    found = [stack for stack in stacks if stack.language] or list(stacks)
    if len(found) != 1:
        names = ", ".join(stack.name for stack in found)
        said = f"several stacks of blocks: {names}" if found else "no stack of repeated blocks"
        raise UnsupportedModelError(
            f"{examination.model_class.__name__} has {said}, so it is not known which to train",
            "--train full --hidden 0 needs none",
        )
    return found[0]


def recorded_blocks(directory: Path) -> dict[str, Any] | None:
    """What surgery.json beside a model says of its blocks, None where it says nothing."""
    path = directory / "surgery.json"
    if not path.is_file():
        return None
    try:
        blocks = json.loads(path.read_text(encoding="utf-8")).get("blocks")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"surgery.json beside the model cannot be read: {error}", "remove the file"
        ) from None
    return blocks if isinstance(blocks, dict) else None


def recorded_order(directory: Path, teacher: int) -> list[int | None] | None:
    """Source block of each block, as surgery.json records it; None where it does not.

    teacher: how many blocks the teacher has. A zero block, which has no source, is None.
    Raises UsageError where the record is damaged, or speaks of a source of another depth: of a
    model between the teacher and this one.
    """
    blocks = recorded_blocks(directory) or {}
    order, before = blocks.get("order"), blocks.get("before")
    if order is None:
        return None
    if not isinstance(order, list) or not all(
        source is None or source == ZERO or isinstance(source, int) for source in order
    ):
        raise UsageError(f"surgery.json has an order of blocks that is none: {order}", "--hidden 0")
    if before != teacher:
        raise UsageError(
            f"surgery.json speaks of a source with {before} blocks, the teacher has {teacher}",
            "--teacher with the model that the blocks were taken from, or --hidden 0",
        )
    return [None if source == ZERO else source for source in order]


def matched_blocks(
    student: int, teacher: int, order: list[int | None] | None
) -> list[tuple[int, int]]:
    """(student's block, teacher's block) pairs whose outputs should agree.

    student, teacher: their depths. order: source block of each of the student's, where known.
    Raises UsageError where no pairing can be told.
    """
    if order is None:
        if student != teacher:
            raise UsageError(
                f"the student has {student} blocks and the teacher {teacher}, and no surgery.json "
                "beside the student says which is which",
                "--hidden 0, or prune with normsurgery, which records it",
            )
        return [(block, block) for block in range(student)]
    if len(order) != student:
        raise UsageError(
            f"surgery.json lists {len(order)} blocks, the student has {student}", "--hidden 0"
        )
    kept = [(at, source) for at, source in enumerate(order) if source is not None]
    sources = [source for _, source in kept]
    rising = all(a < b for a, b in itertools.pairwise(sources))
    if not rising or (sources and sources[-1] >= teacher):
        raise UsageError(
            "the student repeats or reorders the teacher's blocks, so its stream has no "
            "counterpart there",
            "--hidden 0",
        )
    nexts = [*sources[1:], teacher]
    return [(at, following - 1) for (at, _), following in zip(kept, nexts, strict=True)]
