"""Which folds apply to a checkpoint, planned in the one order in which they compose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.checkpoint import Checkpoint
from normsurgery.choices import FOLD_ORDER
from normsurgery.errors import SurgeryError, UnsupportedModelError, UsageError
from normsurgery.nearest import choices_hint
from normsurgery.surgery.folds import FoldOptions, FoldPlan

Planner = Callable[[Checkpoint, Examination, FoldOptions], FoldPlan | str]
RECALIBRATE = "recalibrate"
ROTATE = "rotate"

# fold → the module that plans it, with a function plan_<name>
_HOME_OF = {
    "weight-norm": "fold_weight_norm",
    "image-norm": "fold_image_norm",
    "layerscale": "fold_layerscale",
    "mup": "fold_multipliers",
    "query-scale": "fold_multipliers",
    "value-bias": "fold_attention_bias",
    "key-bias": "fold_attention_bias",
    "norm": "fold_norm",
    "rotate": "rotate",
}


def asked_folds(what: str | Sequence[str]) -> tuple[str, ...]:
    """The folds asked for, in the order in which they are done.

    what: names, or one text with commas. Raises UsageError for a name that is none, for none at
    all, and for `recalibrate` beside others.
    """
    words = what.split(",") if isinstance(what, str) else list(what)
    asked = [str(word).strip() for word in words if str(word).strip()]
    known = (*FOLD_ORDER, RECALIBRATE)
    unknown = next((word for word in asked if word not in known), None)
    if unknown is not None:
        raise UsageError(f"--what {unknown}: there is no such fold", choices_hint(unknown, known))
    if not asked:
        raise UsageError("--what names no fold", f"one of: {', '.join(known)}")
    if RECALIBRATE in asked:
        if len(set(asked)) > 1:
            raise UsageError(
                "recalibrate measures on data and stands alone", "fold first, then recalibrate"
            )
        return (RECALIBRATE,)
    return tuple(name for name in FOLD_ORDER if name in asked)


def plan_folds(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> tuple[list[FoldPlan], dict[str, str]]:
    """The plans of the folds in `options.what`; and for those that do not apply, the reason.

    Raises UnsupportedModelError where none applies, and where a rotation was asked for and cannot
    be had: the other folds are done for its sake.
    """
    plans: list[FoldPlan] = []
    reasons: dict[str, str] = {}
    for name in options.what:
        found = plan_fold(name, checkpoint, examination, options)
        if isinstance(found, FoldPlan):
            plans.append(found)
        else:
            reasons[name] = found
    if not plans or ROTATE in reasons:
        if plans:
            reasons = {ROTATE: reasons[ROTATE]}
        said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UnsupportedModelError(said, "normsurgery inspect MODEL   # what does apply")
    return plans, reasons


def plan_fold(
    name: str, checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """The plan of one fold, or why it does not apply."""
    module = import_module(f"normsurgery.surgery.{_HOME_OF[name]}")
    planner: Planner = getattr(module, f"plan_{name.replace('-', '_')}")
    return planner(checkpoint, examination, options)


def fold_surgeries(checkpoint: Checkpoint, examination: Examination) -> list[dict[str, Any]]:
    """A row of `inspect` for each fold: to how many sites it applies, or why to none."""
    rows = []
    for name in FOLD_ORDER:
        what = ("norm", "rotate") if name == "rotate" else (name,)
        try:
            found = plan_fold(name, checkpoint, examination, FoldOptions(what=what))
        except SurgeryError as error:
            found = error.message
        plan = found if isinstance(found, FoldPlan) else None
        rows.append(
            {
                "name": f"fold --what {','.join(what)}",
                "applies": plan is not None,
                "contract": "exact",
                "target": "stock",
                "reason": _remark(plan) if plan else found,
            }
        )
    return rows


def _remark(plan: FoldPlan) -> str:
    sites = f"{plan.count} site{'' if plan.count == 1 else 's'}"
    return f"{sites}, {len(plan.left)} left" if plan.left else sites


def fold_documents(plans: Sequence[FoldPlan], reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """The `folds` of a result document: sites changed and left, or why a fold does not apply."""
    done = [
        {
            "name": plan.name, "applies": True, "count": plan.count, "left": dict(plan.left),
            "notes": list(plan.notes), "why_not": None,
        }
        for plan in plans
    ]  # fmt: skip
    refused = [
        {"name": name, "applies": False, "count": 0, "left": {}, "notes": [], "why_not": reason}
        for name, reason in reasons.items()
    ]
    return sorted([*done, *refused], key=lambda one: FOLD_ORDER.index(str(one["name"])))
