"""What `inspect` says of a checkpoint's BatchNorms: which forms of `fold-bn` apply, and to what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from normsurgery.anatomy.batchnorm.read import read_batch_norms
from normsurgery.anatomy.batchnorm.sites import BatchNorms
from normsurgery.anatomy.examine import Examination
from normsurgery.api.batchnorm import require_some
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import SurgeryError, UnsupportedModelError
from normsurgery.surgery.batchnorm_native import native_plan
from normsurgery.surgery.batchnorm_plan import BatchNormPlan, plan_folds
from normsurgery.surgery.batchnorm_switches import find_switch
from normsurgery.surgery.in_memory_form import in_memory_form


def batch_norm_surgeries(checkpoint: Checkpoint, examination: Examination) -> list[dict[str, Any]]:
    """One row a form; a single one that says so where there is no BatchNorm."""
    names = examination.names
    dtypes = {name: tensor.dtype for name, tensor in checkpoint.items()}
    try:
        found = read_batch_norms(examination.twin)
        plan = plan_folds(found, names, form="keep", dtypes=dtypes)
        require_some(found, plan)
    except SurgeryError as error:
        return [_row("fold-bn", "stock", error.message, applies=False)]

    def native() -> None:
        native_plan(plan, found, names, find_switch(examination).held)

    def graft() -> None:
        in_memory_form(checkpoint, names)

    return [
        _row("fold-bn", "stock", _remark(found, plan), applies=True),
        _tried("fold-bn --form native", "native", native, _remark(found, plan)),
        _tried("fold-bn --form graft", "graft", graft, _remark(found, plan)),
    ]


def _tried(name: str, target: str, check: Callable[[], None], remark: str) -> dict[str, Any]:
    try:
        check()
    except UnsupportedModelError as error:
        return _row(name, target, error.message, applies=False)
    return _row(name, target, remark, applies=True)


def _row(name: str, target: str, reason: str, *, applies: bool) -> dict[str, Any]:
    return {
        "name": name, "applies": applies, "contract": "exact", "target": target, "reason": reason
    }  # fmt: skip


def _remark(found: BatchNorms, plan: BatchNormPlan) -> str:
    line = f"{len(plan.sites)} of {len(found.sites)} BatchNorms fold"
    reasons = list(dict.fromkeys(plan.left.values()))
    return f"{line}; not: {reasons[0]}" if reasons else line
