"""What every exact fold hands back: the step that does it, what it leaves, how it could be wrong.

A fold is planned on the source's examination and applied to checkpoints: the twin's, for the
proof, and the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.receipt import Receipt, receipt_of

Inputs = Mapping[str, Tensor]
Step = Callable[[Checkpoint], tuple[Checkpoint, Receipt]]


@dataclass(frozen=True)
class FoldOptions:
    """What was asked of the folds. untie: give a tied head a table of its own first.

    rotation: which orthogonal matrices `rotate` uses, drawn with `seed`. what: all folds that run
    together, for those that need another one.
    """

    what: tuple[str, ...] = ()
    untie: bool = False
    rotation: Literal["hadamard", "random"] = "hadamard"
    seed: int = 0
    trust_remote_code: bool = False


@dataclass(frozen=True)
class FoldPlan:
    """A fold that applies. name: the word of `--what`. count: how many sites it changes.

    left: site → why it stays as it is. wrong: the same fold made wrongly in one way, by name, for
    the proof's negative control. inputs: what the result is given where the source is given its
    inputs; None: the same. without: outputs of the model that do not keep their values.
    """

    name: str
    step: Step
    count: int
    left: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    wrong: Mapping[str, Step] = field(default_factory=dict)
    inputs: Callable[[Inputs], dict[str, Tensor]] | None = None
    without: tuple[str, ...] = ()


def fold_receipt(
    name: str, source: Checkpoint, result: Checkpoint, count: int
) -> tuple[Checkpoint, Receipt]:
    """The result of a fold, with its receipt. count: how many sites changed."""
    changed = [one for one in result if one in source and result[one] is not source[one]]
    return result, receipt_of(name, source, result, changed=changed, parameters={"folded": count})


def said(left: Mapping[str, str]) -> str:
    """Sites that are left, with their reasons, in one line: sites of one reason together."""
    sites: dict[str, list[str]] = {}
    for name, reason in left.items():
        sites.setdefault(reason, []).append(name)
    return "; ".join(f"{_some(names)}: {reason}" for reason, names in sites.items())


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
