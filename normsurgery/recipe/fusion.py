"""Which steps of a recipe are done in one pass over the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normsurgery.choices import FOLD_ORDER
from normsurgery.recipe.read import RecipeStep

# Surgeries that are functions of a lazy checkpoint: the next one needs no weight file of theirs.
_LAZY = ("convert", "fold", "fold_bn", "arrange")
_MEASURING = {
    "prune": "prune runs the model to choose blocks, and its result is not exact",
    "heal": "heal trains the model that the files hold",
    "remove_ln": "remove_ln trains, or measures, the model that the files hold",
}


@dataclass(frozen=True)
class Pass:
    """One step that runs. places: of the steps in the recipe that it stands for, from 0."""

    step: RecipeStep
    places: tuple[int, ...]


def why_on_files(step: RecipeStep) -> str:
    """Why a step cannot be a part of a pass of several; empty where, as far as its options tell,
    it can. An arrangement's contract is known only once its source is."""
    if step.surgery not in _LAZY:
        return _MEASURING[step.surgery]
    if step.surgery == "fold" and "recalibrate" in _words(step.options["what"]):
        return "recalibrate measures on a model that it loads"
    if step.surgery == "arrange" and not _only_adds(step.options["blocks"]):
        return "the order of blocks is another one, so its contract is lossy"
    return ""


def _only_adds(blocks: str) -> bool:
    """Whether a list such as "0-3,zero,4" can be every block in its place, and zeros."""
    next_one = 0
    for word in blocks.replace(" ", "").split(","):
        first, _, last = word.partition("-")
        if word == "zero":
            continue
        if not first.isdecimal() or int(first) != next_one or not (last or first).isdecimal():
            return False
        next_one = int(last or first) + 1
    return True


def groups(found: Sequence[Pass]) -> list[list[Pass]]:
    """Steps in order, those together that are to be one pass over the disk."""
    together: list[list[Pass]] = []
    for one in found:
        lazy = not why_on_files(one.step)
        if lazy and together and not why_on_files(together[-1][-1].step):
            together[-1].append(one)
        else:
            together.append([one])
    return together


def passes(steps: Sequence[RecipeStep]) -> tuple[Pass, ...]:
    """The steps in order, those that follow one another and are one operation made one.

    `fold` is a function of a checkpoint, and `fold` of several is their composition in the order
    of FOLD_ORDER. So folds that follow one another in that order, with the same options otherwise,
    are one, planned once and with one receipt. See `groups` for steps of different surgeries.
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
