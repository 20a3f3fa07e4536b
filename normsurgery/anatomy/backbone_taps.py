"""Where a backbone's outputs are taken: `stage_names`, `out_features`, `out_indices`.

The names are those of transformers' backbones, one interface for all families: stage 0 is the stem,
stage k what block k - 1 returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from normsurgery.anatomy.config_places import Key
from normsurgery.anatomy.stacks import Stack
from normsurgery.errors import UnsupportedModelError


def moved_taps(
    values: Mapping[str, Any], scope: Key, order: Sequence[int], stack: Stack
) -> dict[Key, Any]:
    """The edits that let each output be taken after the same block as before.

    values: the part of the configuration at `scope`. The output after the last block stays the one
    after the last; others follow their block. Empty where the stages are no single blocks.
    Raises UnsupportedModelError where an output is taken after a block that is dropped.
    """
    names, taps = values.get("stage_names"), values.get("out_indices")
    if not isinstance(names, (list, tuple)) or len(names) != stack.depth + 1:
        return {}
    longer = [f"stage{number}" for number in range(len(names), len(order) + 1)]
    stages = [*names, *longer][: len(order) + 1]
    edits: dict[Key, Any] = {(*scope, "stage_names"): stages}
    if isinstance(taps, (list, tuple)):
        moved = [_moved(tap % len(names), order, stack) for tap in taps]
        features = [stages[tap] for tap in moved]
        edits |= {(*scope, "out_indices"): moved, (*scope, "out_features"): features}
    return edits


def _moved(tap: int, order: Sequence[int], stack: Stack) -> int:
    if tap == 0:
        return 0
    if tap == stack.depth:
        return len(order)
    if tap - 1 not in order:
        raise UnsupportedModelError(
            f"an output of the model is taken after block {tap - 1} of {stack.name}",
            "keep that block",
        )
    return list(order).index(tap - 1) + 1
