"""Compose the folds of a checkpoint's BatchNorms: what folds, in which form, and its proof."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from normsurgery.anatomy.batchnorm.read import read_batch_norms
from normsurgery.anatomy.batchnorm.sites import BatchNorms
from normsurgery.anatomy.config_places import edited
from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.proof import Operate, Proof, prove
from normsurgery.api.same_class import target_document
from normsurgery.calibrate.arrays.example import examples_of
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.graft.attach import Graft, make_graft
from normsurgery.graft.plan import foldedbn_plan
from normsurgery.surgery.batchnorm_native import native_plan
from normsurgery.surgery.batchnorm_plan import BatchNormPlan, Form, plan_folds
from normsurgery.surgery.batchnorm_switches import Switched, find_switch
from normsurgery.surgery.cast import cast, stored_dtype, widens
from normsurgery.surgery.fold_batchnorm import apply_folds
from normsurgery.surgery.in_memory_form import in_memory_form, in_memory_names
from normsurgery.surgery.receipt import Receipt, receipt_of

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
    graft: Graft | None = None
    switched: Switched | None = None

    @property
    def form(self) -> str:
        """What the result opens in."""
        if self.switched:
            return "native"
        return "graft" if self.graft else "stock"

    @property
    def forms(self) -> dict[str, Callable[[Path], type]]:
        """The ways in which the result opens, by name."""
        if self.graft:
            return {"graft": self.graft.class_of()}
        return {self.form: lambda _: self.examination.model_class}

    @property
    def why(self) -> str:
        if self.graft:
            return "--form graft: the norms are gone, and the stock class refuses this checkpoint"
        if self.switched:
            return f"--form native: the source's own class with {self.switched.words}"
        return "every norm stays as x + shift, so the source's class computes the same"

    @property
    def target(self) -> dict[str, Any]:
        """The `target` of the document."""
        found = target_document(self.examination, self.why)
        if self.graft:
            offered = {"auto_class": self.graft.auto_class, "auto_classes": [*self.graft.classes]}
            found |= offered
        return {**found, "form": self.form, "modeling_file": self.graft is not None}

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
        folded = [site.name for site in plan.sites if site.seen]

        def operate(unfolded: Collection[str]) -> Operate:
            return lambda twin: self._applied(twin, self._steps(plan, unfolded))[0]

        wrong = {"nothing folded": operate(folded), "one fold left out": operate(folded[-1:])}
        return prove(
            self.examination, operate(()), self.forms, wrong=wrong, exclusive=self.form == "graft"
        )

    def _steps(self, plan: BatchNormPlan, unfolded: Collection[str]) -> list[Step]:
        names = self.examination.names
        before: list[Step] = []
        if self.graft:  # a model type of its own is loaded without the stock type's renames
            before = [lambda source: in_memory_form(source, names)]
        fold: Step = lambda source: apply_folds(source, self.names, plan, unfolded=unfolded)  # noqa: E731
        return [*before, fold, self._configured]

    def _configured(self, source: Checkpoint) -> tuple[Checkpoint, Receipt]:
        """The configuration with its switch turned, where there is one."""
        if self.switched is None:
            return source, Receipt("switch", "exact", kept=len(source))
        config = edited(source.config, self.switched.edits, self.examination.config)
        result = source.with_config(config)
        return result, receipt_of("switch-config", source, result, changed=())

    def _applied(
        self, source: Checkpoint, steps: Sequence[Step]
    ) -> tuple[Checkpoint, list[Receipt]]:
        receipts = []
        for step in steps:
            source, receipt = step(source)
            if receipt.changed or receipt.added or receipt.dropped or receipt.config:
                receipts.append(receipt)
        return self.graft.attach(source) if self.graft else source, receipts


def plan_folding(
    checkpoint: Checkpoint,
    *,
    form: Form = "keep",
    dtype: str | None = None,
    example: str | Path | None = None,
    trust_remote_code: bool = False,
) -> BatchNormFolding:
    """Find the BatchNorms of a checkpoint and choose what becomes of them.

    dtype: as the option spells it. example: a file that the twin's inputs are made of.
    Raises UnsupportedModelError with the reasons where none folds.
    """
    examples = None
    if example is not None:
        examples = examples_of(example, checkpoint.directory, trust_remote_code=trust_remote_code)
    examination = examine(checkpoint, trust_remote_code=trust_remote_code, examples=examples)
    return folding_of(checkpoint, examination, form=form, dtype=dtype)


def folding_of(
    checkpoint: Checkpoint, examination: Examination, *, form: Form, dtype: str | None = None
) -> BatchNormFolding:
    """`plan_folding` of a checkpoint that is examined already."""
    found = read_batch_norms(examination.twin)
    stored = stored_dtype(dtype) if dtype else None
    dtypes = {name: tensor.dtype for name, tensor in checkpoint.items()}
    names = examination.names
    if form == "graft":
        names = in_memory_names(names)
        dtypes = {part.parameter: dtypes[name] for name, part in examination.names.parts.items()}
    plan = plan_folds(found, names, form="graft" if form == "graft" else "keep", dtypes=dtypes)
    require_some(found, plan)
    plan = replace(plan, dtype=stored)
    graft, switched = None, None
    if form == "native":
        switched = find_switch(examination)
        plan = native_plan(plan, found, names, switched.held)
    if form == "graft":
        graft = make_graft(examination, foldedbn_plan(found, plan), source=checkpoint.model_id)
    notes = _notes(checkpoint, examination, plan)
    if graft:
        notes += [f"{name} is not offered: {reason}" for name, reason in graft.refused.items()]
    return BatchNormFolding(
        examination, found, plan, names, stored,
        bool(stored and widens(checkpoint, stored)), tuple(notes), graft, switched,
    )  # fmt: skip


def require_some(found: BatchNorms, plan: BatchNormPlan) -> None:
    """UnsupportedModelError with the reasons where no norm folds."""
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
