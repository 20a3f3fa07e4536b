"""What a checkpoint must be for a mapping to fit; each check gives the reason why it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.checkpoint import Checkpoint
from normsurgery.native.mapping import Condition


def off(key: str, reason: str) -> Condition:
    """A flag of the source's configuration that must not be set."""

    def check(config: Any, examination: Examination, checkpoint: Checkpoint) -> str | None:
        return reason if value_at(config, key) else None

    return check


def equals(key: str, wanted: Any, reason: str) -> Condition:
    """A value that the target's code has built in."""

    def check(config: Any, examination: Examination, checkpoint: Checkpoint) -> str | None:
        found = value_at(config, key)
        return None if found == wanted else f"{key} is {found}: {reason}"

    return check


def heads_fill_the_width(
    config: Any, examination: Examination, checkpoint: Checkpoint
) -> str | None:
    """The target has no head width of its own."""
    heads, width = config.num_attention_heads, config.hidden_size
    head_dim = getattr(config, "head_dim", None) or width // heads
    if head_dim * heads == width:
        return None
    return f"{heads} heads of {head_dim} are not the width {width}, as the target wants"


def value_at(config: Any, key: str) -> Any:
    """A configuration's value by its dotted key, through nested configurations; None if absent."""
    value = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value
