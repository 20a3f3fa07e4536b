"""Several folds as one operation: composed, proved together, each with its own negative control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.proof import Proof, prove
from normsurgery.api.same_class import FORM, verification_options
from normsurgery.checkpoint import Checkpoint
from normsurgery.report.progress import Progress
from normsurgery.surgery.cast import as_dtype
from normsurgery.surgery.folds import FoldPlan, Inputs, Step
from normsurgery.surgery.receipt import Receipt
from normsurgery.verify import ModelSource, judge, run_reference


@dataclass(frozen=True)
class Composition:
    """Folds in order, for the twin's files and the real ones alike.

    examination: of the source. before: what is done first (untying). plans: the folds.
    """

    examination: Examination
    before: tuple[Step, ...]
    plans: tuple[FoldPlan, ...]

    def operate(self, source: Checkpoint) -> tuple[Checkpoint, list[Receipt]]:
        """The result, and a receipt for each step. Every number is rounded once, after all folds:
        what several folds change is kept in float64 between them."""
        source, receipts = _applied(source, self.before)
        steps = [plan.step for plan in self.plans]
        result, folded = _applied(source, steps)
        touched = Counter(name for receipt in folded for name in receipt.changed)
        often = [name for name, times in touched.items() if times > 1 and name in source]
        if often:
            wide = source.override({name: as_dtype(source[name], "F64") for name in often})
            result, folded = _applied(wide, steps)
            narrow = {name: as_dtype(result[name], source[name].dtype) for name in often}
            result = result.override(narrow)
        return result, [*receipts, *folded]

    def prove(self) -> Proof:
        """Prove all folds together on the twin; every one of them made wrongly must be noticed."""
        examination, twin = self.examination, self.examination.twin
        reference = run_outputs(twin.model, twin.inputs, without=self.without)
        ours = replace(examination, twin=replace(twin, inputs=self.inputs(twin.inputs)))
        return prove(
            ours,
            lambda source: self.operate(source)[0],
            {FORM: lambda _: examination.model_class},
            without=self.without,
            reference=reference,
            wrong=self._wrong() or None,
        )

    @property
    def without(self) -> tuple[str, ...]:
        """Outputs that do not keep their values."""
        return tuple(dict.fromkeys(name for plan in self.plans for name in plan.without))

    def inputs(self, given: Inputs) -> dict[str, Tensor]:
        """What the result is given where the source is given these inputs."""
        made = dict(given)
        for plan in self.plans:
            if plan.inputs is not None:
                made = plan.inputs(made)
        return made

    def _wrong(self) -> dict[str, Callable[[Checkpoint], Checkpoint]]:
        found: dict[str, Callable[[Checkpoint], Checkpoint]] = {}
        for position, plan in enumerate(self.plans):
            for how, step in plan.wrong.items():
                steps = [other.step for other in self.plans]
                steps[position] = step
                found[f"{plan.name}: {how}"] = partial(_result, steps=[*self.before, *steps])
        return found


def _applied(source: Checkpoint, steps: Sequence[Step]) -> tuple[Checkpoint, list[Receipt]]:
    receipts = []
    for step in steps:
        source, receipt = step(source)
        receipts.append(receipt)
    return source, receipts


def _result(source: Checkpoint, *, steps: Sequence[Step]) -> Checkpoint:
    return _applied(source, steps)[0]


def verify_folds(
    checkpoint: Checkpoint,
    composition: Composition,
    staged: Path,
    *,
    progress: Progress,
    allow_pickle: bool = False,
    **given: Any,
) -> dict[str, Any]:
    """Verify a staged directory against its source, each given the inputs that are its own.

    given: data, device, dtype and seed, as VerifyOptions takes them.
    """
    examination = composition.examination
    options = verification_options(
        examination, contract="exact", without=composition.without, **given
    )
    model_class = examination.model_class
    source = ModelSource(checkpoint.directory, model_class, allow_pickle=allow_pickle)
    reference = run_reference(source, options, progress=progress)
    batches = tuple(
        replace(batch, inputs=composition.inputs(batch.inputs)) for batch in reference.plan.batches
    )
    reference.plan = replace(reference.plan, batches=batches)
    found = judge(reference, ModelSource(staged, model_class), progress=progress).to_dict()
    return {"verdict": found["verdict"], "contract": "exact", FORM: found}
