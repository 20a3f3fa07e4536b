"""What `inspect` tells of a model's depth: its stacks, and the surgeries that change or train them.

Whether blocks can be added, measured or fitted is asked of a twin with few blocks, so that the
answer costs the same for every depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from normsurgery.anatomy.block_writers import block_writers
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.stacks import Stack
from normsurgery.anatomy.twin import build_twin
from normsurgery.calibrate.witness import forms_on_twin
from normsurgery.errors import SurgeryError
from normsurgery.train.texts import why_no_text

_FEW = 2  # blocks of the small twin; it keeps one of every kind that config.json lists


def stack_documents(stacks: Sequence[Stack]) -> list[dict[str, Any]]:
    """Each stack with its depth and width, and where config.json holds the depth."""
    return [
        {
            "name": stack.name,
            "depth": stack.depth,
            "width": stack.width or None,
            "keys": [list(key) for key in stack.keys],
            "language": stack.language,
            "why_not": stack.why_not or None,
        }
        for stack in stacks
    ]


@single_thread()
def depth_surgeries(examination: Examination, stacks: Sequence[Stack]) -> list[dict[str, Any]]:
    """`prune`, `arrange` and `heal`: whether each applies, and to which stacks or why not."""
    free = [stack for stack in stacks if not stack.why_not]
    blocked = None if free else _why_none(stacks)
    few = _FewBlocks(examination)
    silent = {stack.name: few.why_not_written(stack) for stack in free}
    addable = [stack for stack in free if silent[stack.name] is None]
    no_zero = None if addable else next(iter(silent.values()), blocked)
    text = next((stack for stack in stacks if stack.language), None)
    measured = few.why_not_measured(text)
    fitted = measured or (silent[text.name] if text else None)
    where = _listed([text] if text else [])
    return [
        _row("prune --drop LIST", "lossy", blocked, _listed(free)),
        _row("prune --drop N", "lossy", measured, f"text tells which of the {where}"),
        _row("prune --heal sequential", "fitted", fitted, where),
        _row("arrange", "lossy", blocked, _listed(free)),
        _row("arrange, only zero blocks added", "exact", no_zero, _listed(addable)),
        _row("heal", "trained", why_no_text(examination), "it predicts the next token of a text"),
    ]


class _FewBlocks:
    """Asks of a twin with few blocks what would be asked of one with all of them."""

    def __init__(self, examination: Examination) -> None:
        self.examination = examination

    @cached_property
    def small(self) -> Examination:
        found = self.examination
        return replace(found, twin=build_twin(found.model_class, found.config, depth=_FEW))

    def why_not_written(self, stack: Stack) -> str | None:
        """Why it is not known what adds to the stream in a block; None where it is."""
        return _refusal(lambda: block_writers(self.small, self.shortened(stack)))

    def why_not_measured(self, stack: Stack | None) -> str | None:
        """Why the stack cannot be run on text block by block; None where it can."""
        if stack is None:
            return "no language head reads a stack of its blocks"
        if stack.why_not:
            return stack.why_not
        return _refusal(lambda: forms_on_twin(self.small.twin, self.shortened(stack).blocks))

    def shortened(self, stack: Stack) -> Stack:
        """The stack as the small twin has it."""
        present = {name for name, _ in self.small.twin.model.named_modules()}
        return replace(stack, blocks=tuple(block for block in stack.blocks if block in present))


def _refusal(check: Callable[[], object]) -> str | None:
    try:
        check()
    except SurgeryError as error:
        return error.message
    return None


def _why_none(stacks: Sequence[Stack]) -> str:
    if not stacks:
        return "it has no stack of repeated blocks"
    return "; ".join(f"{stack.name}: {stack.why_not}" for stack in stacks)


def _listed(stacks: Sequence[Stack]) -> str:
    return ", ".join(f"{stack.depth} blocks of {stack.name}" for stack in stacks)


def _row(name: str, contract: str, reason: str | None, remark: str) -> dict[str, Any]:
    return {
        "name": name,
        "applies": reason is None,
        "contract": contract,
        "target": "stock",
        "reason": remark if reason is None else reason,
    }
