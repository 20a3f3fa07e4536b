"""What every exact fold hands back: the step that does it, what it leaves and how it could be wrong.

A fold is planned on the source's examination and applied to checkpoints: the twin's, for the
proof, and the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.receipt import Receipt

Step = Callable[[Checkpoint], tuple[Checkpoint, Receipt]]

# The order in which folds compose, whatever order they are asked for in.
FOLD_ORDER = (
    "weight-norm",
    "image-norm",
    "layerscale",
    "mup",
    "query-scale",
    "value-bias",
    "key-bias",
    "norm",
    "rotate",
)


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
    the proof's negative control. without: outputs of the model that do not keep their values.
    """

    name: str
    step: Step
    count: int
    left: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    wrong: Mapping[str, Step] = field(default_factory=dict)
    without: tuple[str, ...] = ()
