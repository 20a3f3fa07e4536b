"""Choose a native target: the best class that fits, or the reasons why none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.api.operation import Operation, Request, general_notes
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.graft.classes import auto_classes
from normsurgery.native.plan import NativePlan, Refusal, native_plans
from normsurgery.surgery.cast import cast, widens

Found = Sequence["NativePlan | Refusal"]


@dataclass(frozen=True)
class Choice:
    """operation: for the native target chosen, or None. why_not: why none was, or "".

    alternatives: the other targets, as a document has them.
    """

    operation: Operation | None
    why_not: str
    alternatives: tuple[dict[str, Any], ...]


def choose_native(checkpoint: Checkpoint, examination: Examination, request: Request) -> Choice:
    """The native target that the request asks for or, for auto, that costs next to nothing.

    Raises UnsupportedModelError where one is asked for and none fits.
    """
    only = request.target == "native"
    special = request.to != "rmsnorm" or request.fold_affine or request.untie or request.part
    if not only and (request.target != "auto" or special):
        return Choice(None, "", ())
    found = native_plans(checkpoint, examination, dtype=request.stored_dtype)
    chosen = best_native(found, examination) if only else for_auto(found)
    others = alternatives(found, chosen, checkpoint, examination.model_class.__name__)
    if chosen is None:
        return Choice(None, reasons(found), tuple(others))
    return Choice(_operation(checkpoint, examination, chosen, request), "", tuple(others))


def _operation(
    checkpoint: Checkpoint, examination: Examination, plan: NativePlan, request: Request
) -> Operation:
    dtype = request.stored_dtype
    named = auto_classes(plan.config, plan.model_class)
    lost = [f"not there any more: {name}, which {plan.architecture} lacks" for name in plan.lost]
    return Operation(
        examination=plan.examination,
        steps=plan.steps,
        cast=partial(cast, dtype=dtype) if dtype else None,
        cast_first=bool(dtype and widens(checkpoint, dtype)),
        graft=None,
        architecture=plan.architecture,
        classes={auto: name for auto, name in named.items() if name == plan.architecture},
        form="native",
        why=why_native(plan),
        forms={"native": lambda _: plan.model_class},
        centred={},
        notes=(*lost, *general_notes(checkpoint, examination)),
        bound=plan.bound,
        context=plan.context[1],
        engines=plan.engines,
        lost=plan.lost,
    )


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
