"""Which steps of a recipe are done in one pass over the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normsurgery.recipe import RecipeStep

# The order in which `fold` composes, whatever order it is asked in.
FOLD_ORDER = (
    *("weight-norm", "image-norm", "layerscale", "mup", "query-scale", "norm"),
    *("value-bias", "key-bias", "rotate"),
)


@dataclass(frozen=True)
class Pass:
    """One step that runs. places: of the steps in the recipe that it stands for, from 0."""

    step: RecipeStep
    places: tuple[int, ...]


def passes(steps: Sequence[RecipeStep]) -> tuple[Pass, ...]:
    """The steps in order, those that follow one another and are one operation made one.

    `fold` is a function of a checkpoint, and `fold` of several is their composition in the order
    of FOLD_ORDER. So folds that follow one another in that order, with the same options otherwise,
    are one: read once, written once, and every number rounded once. Other surgeries look at files
    that were written, and run one after the other.
    """
    found: list[Pass] = []
    for place, step in enumerate(steps):
        both = _one(found[-1].step, step) if found else None
        if both is None:
            found.append(Pass(step, (place,)))
        else:
            found[-1] = Pass(both, (*found[-1].places, place))
    return tuple(found)


def _one(first: RecipeStep, second: RecipeStep) -> RecipeStep | None:
    """Two steps as one, or None where they are not the same as one."""
    if not first.surgery == second.surgery == "fold":
        return None
    what = [*_words(first.options["what"]), *_words(second.options["what"])]
    in_order = [name for name in FOLD_ORDER if name in what]
    if what != in_order:  # recalibrate is in no order: it measures on files
        return None
    # Stored narrower, or in other shards, between the two: not the same bytes as at the end.
    late = {"dtype", "max_shard_size"}
    if any(first.options.get(key) not in (None, second.options.get(key)) for key in late):
        return None
    early = {"untie"}  # a head untied by the first one stays so
    if second.options.get("untie") and not first.options.get("untie"):
        return None
    kept = {"what", *late, *early}
    if _others(first, kept) != _others(second, kept):
        return None
    options = {**first.options, **{k: v for k, v in second.options.items() if k in late}}
    return RecipeStep("fold", {**options, "what": what})


def _words(what: Any) -> list[str]:
    names = what.split(",") if isinstance(what, str) else what
    return [str(name).strip() for name in names]


def _others(step: RecipeStep, kept: set[str]) -> dict[str, Any]:
    return {key: value for key, value in step.options.items() if key not in kept}
