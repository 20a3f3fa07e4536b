"""Choose a native target: the best class that fits, or the reasons why none does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.native.plan import NativePlan, Refusal

Found = Sequence["NativePlan | Refusal"]


def best_native(found: Found, examination: Examination) -> NativePlan:
    """The first plan; UnsupportedModelError with every refusal where there is none."""
    for one in found:
        if isinstance(one, NativePlan):
            return one
    name = examination.model_class.__name__
    if not found:
        raise UnsupportedModelError(
            f"no native target: {name} is not in the table of mappings",
            "--target stock keeps its class, --target graft brings a modeling file",
        )
    raise UnsupportedModelError(
        f"no native target: {reasons(found)}",
        "--target stock keeps its class, --target graft brings a modeling file",
    )


def for_auto(found: Found) -> NativePlan | None:
    """The first plan that costs next to nothing and runs in more engines, if there is one."""
    plans = (one for one in found if isinstance(one, NativePlan))
    return next((plan for plan in plans if plan.why_not_auto() is None), None)


def reasons(found: Found) -> str:
    """Why `auto` takes none of them, in one line."""
    said = [
        f"{one.architecture}: {one.why_not_auto()}"
        if isinstance(one, NativePlan)
        else f"{one.mapping.target.family}: {one.reason}"
        for one in found
    ]
    return "; ".join(dict.fromkeys(said))


def why_native(plan: NativePlan) -> str:
    """The reason given for a native target."""
    added = f"{plan.parameters_added:,} parameters added" if plan.parameters_added else "none added"
    extra = "".join(
        [
            ", one block that absorbs the final norm's β" if plan.absorbs else "",
            _shrunk(plan.context),
        ]
    )
    return (
        f"it is exactly a {plan.architecture}, which transformers ships with RMSNorm: "
        f"no custom code; {added}{extra}"
    )


def alternatives(
    found: Found, chosen: NativePlan | None, checkpoint: Checkpoint, architecture: str
) -> list[dict[str, Any]]:
    """What else could have been chosen, what it costs, and why it was not."""
    others = []
    for one in found:
        if isinstance(one, Refusal):
            others.append(one.to_dict())
        elif one is not chosen:
            why_not = one.why_not_auto() or "another native target comes first"
            others.append({**one.to_dict(), "why_not": why_not})
    if chosen is not None:
        others.append(_stock(checkpoint, chosen, architecture))
    return others


def _stock(checkpoint: Checkpoint, chosen: NativePlan, architecture: str) -> dict[str, Any]:
    before = chosen.context[0]
    return {
        "form": "stock", "architecture": architecture, "parameters_added": 0,
        "bytes": sum(tensor.nbytes for tensor in checkpoint.values()),
        "context": [before, before], "engines": ["transformers"],
        "why_not": "its RMSNorm form needs trust_remote_code=True",
    }  # fmt: skip


def _shrunk(context: tuple[int | None, int | None]) -> str:
    before, after = context
    return "" if before == after else f", the context shrinks from {before} to {after}"
