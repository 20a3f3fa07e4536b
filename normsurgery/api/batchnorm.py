"""Compose the folds of a checkpoint's BatchNorms: what folds, in which form, and its proof."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from normsurgery.anatomy.batchnorm.read import read_batch_norms
from normsurgery.anatomy.batchnorm.sites import BatchNorms
from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.proof import Operate, Proof, prove
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.batchnorm_plan import BatchNormPlan, Form, plan_folds
from normsurgery.surgery.cast import cast, stored_dtype, widens
from normsurgery.surgery.fold_batchnorm import apply_folds
from normsurgery.surgery.receipt import Receipt

Step = Callable[[Checkpoint], tuple[Checkpoint, Receipt]]

INFERENCE_ONLY = (
    "inference only: in train mode a BatchNorm takes its statistics from the batch, which destroys "
    "a folded model; fine-tune the source, or keep every norm in eval mode"
)
_NARROW = {"BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class BatchNormFolding:
    """The folds of one checkpoint in one form, ready for the twin's files and for the real ones.

    found: every BatchNorm of the model. plan: of the real files. names: of the checkpoint that the
    folds edit. dtype: safetensors' spelling of what the result is stored in, None for the source's.
    """

    examination: Examination
    found: BatchNorms
    plan: BatchNormPlan
    names: NameMap
    dtype: str | None
    cast_first: bool
    notes: tuple[str, ...]

    @property
    def form(self) -> str:
        """What the result opens in."""
        return "stock"

    @property
    def forms(self) -> dict[str, Callable[[Path], type]]:
        return {"stock": lambda _: self.examination.model_class}

    @property
    def why(self) -> str:
        return "every norm stays as x + shift, so the source's class computes the same"

    @property
    def target(self) -> dict[str, Any]:
        """The `target` of the document."""
        from normsurgery.api.same_class import target_document

        return {**target_document(self.examination, self.why), "modeling_file": False}

    def operate(self, source: Checkpoint) -> tuple[Checkpoint, list[Receipt]]:
        """The result and a receipt for each step."""
        casts: list[Step] = [partial(cast, dtype=self.dtype)] if self.dtype else []
        steps = self._steps(self.plan, ())
        return self._applied(source, [*casts, *steps] if self.cast_first else [*steps, *casts])

    def operate_in_float64(self, wide: Checkpoint) -> Checkpoint:
        """The result for a source whose tensors are float64 already."""
        plan = replace(self.plan, dtype=None)
        return self._applied(wide, self._steps(plan, ()))[0]

    def prove(self) -> Proof:
        """Prove the folds on the twin; a result without them must show, and one without one."""
        plan = replace(self.plan, dtype=None)
        folded = [site.name for site in plan.sites]

        def operate(unfolded: Collection[str]) -> Operate:
            return lambda twin: self._applied(twin, self._steps(plan, unfolded))[0]

        wrong = {"nothing folded": operate(folded), "one fold left out": operate(folded[:1])}
        return prove(
            self.examination, operate(()), self.forms, wrong=wrong, exclusive=self.form == "graft"
        )

    def _steps(self, plan: BatchNormPlan, unfolded: Collection[str]) -> list[Step]:
        return [lambda source: apply_folds(source, self.names, plan, unfolded=unfolded)]

    def _applied(
        self, source: Checkpoint, steps: Sequence[Step]
    ) -> tuple[Checkpoint, list[Receipt]]:
        receipts = []
        for step in steps:
            source, receipt = step(source)
            receipts.append(receipt)
        return source, receipts


def plan_folding(
    checkpoint: Checkpoint,
    *,
    form: Form = "keep",
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> BatchNormFolding:
    """Find the BatchNorms of a checkpoint and choose what becomes of them.

    dtype: as the option spells it. Raises UnsupportedModelError with the reasons where none folds.
    """
    examination = examine(checkpoint, trust_remote_code=trust_remote_code)
    return folding_of(checkpoint, examination, form=form, dtype=dtype)


def folding_of(
    checkpoint: Checkpoint, examination: Examination, *, form: Form, dtype: str | None = None
) -> BatchNormFolding:
    """`plan_folding` of a checkpoint that is examined already."""
    found = read_batch_norms(examination.twin)
    stored = stored_dtype(dtype) if dtype else None
    dtypes = {name: tensor.dtype for name, tensor in checkpoint.items()}
    plan = plan_folds(found, examination.names, form=form, dtypes=dtypes)
    _require_some(found, plan)
    plan = replace(plan, dtype=stored)
    return BatchNormFolding(
        examination, found, plan, examination.names, stored,
        bool(stored and widens(checkpoint, stored)), tuple(_notes(checkpoint, examination, plan)),
    )  # fmt: skip


def _require_some(found: BatchNorms, plan: BatchNormPlan) -> None:
    if not found.sites:
        raise UnsupportedModelError(
            "it has no BatchNorm: no module of it has running statistics",
            "normsurgery inspect MODEL   # what does apply",
        )
    if not plan.sites:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(plan.left.items())[:3])
        more = f"; and {len(plan.left) - 3} more" if len(plan.left) > 3 else ""
        raise UnsupportedModelError(
            f"none of its {len(plan.left)} BatchNorms folds: {reasons}{more}",
            "normsurgery inspect MODEL   # what does apply",
        )


def _notes(checkpoint: Checkpoint, examination: Examination, plan: BatchNormPlan) -> list[str]:
    notes = [INFERENCE_ONLY]
    narrow = {checkpoint[name].dtype for name in _edited(examination.names, plan)} & set(_NARROW)
    if narrow:
        kind = " and ".join(_NARROW[dtype] for dtype in sorted(narrow))
        notes.append(
            f"the source is stored in {kind}: every folded weight is rounded to that once more; "
            "fold the float32 master where there is one, then --dtype"
        )
    if checkpoint.left_out:
        files = ", ".join(checkpoint.left_out)
        notes.append(
            f"not carried over, as they hold the source's weights in another form: {files}"
        )
    return notes


def _edited(names: NameMap, plan: BatchNormPlan) -> list[str]:
    """The weights on disk that take a norm's scale."""
    weights = {m.weight for site in plan.sites for m in site.maps}
    return [name for name, part in names.parts.items() if part.parameter in weights]
