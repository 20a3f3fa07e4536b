"""Several surgeries on one checkpoint, in a row, with every number rounded once.

What each of them makes is lazy, so nothing is read until the last result is written. Tensors that
one of them changes are as that one made them. Those that several change are computed through in
float64, from the source's own numbers, and rounded at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.cast import as_dtype

_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Applied:
    """One surgery as it was applied. operate: without any cast. after: rounded as it rounds."""

    operate: Callable[[Checkpoint], Checkpoint]
    before: Checkpoint
    after: Checkpoint


def rounded_once(steps: Sequence[Applied]) -> Checkpoint:
    """The last result, with the tensors that several steps changed computed through in float64.

    steps: each works on what the one before made, `before` of one and `after` of the other.
    """
    source, result = steps[0].before, steps[-1].after
    often = changed_often(steps)
    if not often:
        return result
    wide = {
        name: as_dtype(tensor, "F64")
        for name, tensor in source.items()
        if tensor.dtype in _FLOATS and tensor.dtype != "F64"
    }
    stored = {id(tensor.source): source[name] for name, tensor in wide.items()}
    found = source.override(wide)
    for step in steps:
        made = step.operate(found)
        # files and config.json are the same, and lie where the next step looks for them
        found = replace(step.after, tensors=made.tensors, shards=made.shards)
    return result.override(
        {
            name: as_dtype(stored.get(id(found[name].source), found[name]), result[name].dtype)
            for name in often
        }
    )


def changed_often(steps: Sequence[Applied]) -> list[str]:
    """Tensors of the last result that two steps or more had a part in."""
    times = dict.fromkeys(steps[0].before, 0)
    for step in steps:
        times = _times(step, times)
    return [name for name, count in times.items() if count > 1]


def _times(step: Applied, before: Mapping[str, int]) -> dict[str, int]:
    """How many steps had a part in each tensor of a step's result."""
    # renamed tensors keep their source; of a new name nobody knows what it was made of
    passed = {id(tensor.source): before[name] for name, tensor in step.before.items()}
    most = max(before.values(), default=0)
    return {
        name: passed.get(id(tensor.source), 1 + before.get(name, most))
        for name, tensor in step.after.items()
    }
