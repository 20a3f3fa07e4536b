"""The words of a native mapping: which class becomes which, by which renames and config edits.

A mapping is data. Source parameters are named as the source class names them in memory, target
tensors as the target class names them on disk; both with the base model's prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from normsurgery.anatomy.examine import Examination
from normsurgery.checkpoint import Checkpoint

HEADS = ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "Model")


@dataclass(frozen=True)
class Move:
    """Where a source parameter goes.

    source: regular expression for its whole name. target: template, \\1 for groups and {part} for
    the pieces of a cut. cut: how the tensor is reshaped or cut (a name in `cuts.CUTS`), or "".
    """

    source: str
    target: str
    cut: str = ""

    def target_of(self, parameter: str) -> str | None:
        """The target's template for this parameter, or None."""
        match = re.fullmatch(self.source, parameter)
        return match.expand(self.target) if match else None


@dataclass(frozen=True)
class Target:
    """A stock RMSNorm class as a place to move into.

    family: the class name without its head ("Llama"). rotary: how its attention pairs the channels
    of a head, "halves" or "interleaved", or "" without rotary positions. gated: its MLP multiplies
    two projections. head_bias: its language-model head can have one. keeps_final: its last norm is
    a LayerNorm whatever the others are. eps: the key of its norms' ε. flags: config key → regular
    expression of the biases that it turns on. fills: regular expression → value of target tensors
    that no source tensor gives. values: config values that the class needs whatever the source.
    """

    family: str
    rotary: Literal["halves", "interleaved", ""] = "halves"
    gated: bool = True
    head_bias: bool = False
    keeps_final: bool = False
    eps: str = "rms_norm_eps"
    flags: Mapping[str, str] = field(default_factory=dict)
    fills: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


Condition = Callable[[Any, Examination, Checkpoint], "str | None"]


@dataclass(frozen=True)
class NativeMapping:
    """One row of the table.

    source: class name without its head ("Olmo"). keys: target config key → source key, dotted into
    nested ones. values: target config key → constant, or function of the source's configuration.
    dropped: regular expression → why source parameters of that name are left out. lost: outputs
    that the target's class does not have. conditions: each gives the reason why the
    row does not fit a checkpoint, or None. clip: source key that bounds q, k and v, which must be
    null or provably inactive. window: source key that caps the context.
    """

    source: str
    target: Target
    moves: tuple[Move, ...]
    keys: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    clip: str | None = None
    window: str | None = None
    heads: tuple[str, ...] = HEADS

    def __str__(self) -> str:
        return f"{self.source} → {self.target.family}"
