"""What was asked of `convert`, and the operation that answers it: steps, forms, what to expect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.proof import EXACT_BOUND, Proof, prove
from normsurgery.checkpoint import Checkpoint
from normsurgery.graft.attach import Graft, main_auto_class
from normsurgery.surgery.cast import stored_dtype
from normsurgery.surgery.receipt import Receipt

To = Literal["rmsnorm", "crmsnorm"]
Target = Literal["auto", "native", "stock", "graft"]
Step = Callable[[Checkpoint], tuple[Checkpoint, Receipt]]


@dataclass(frozen=True)
class Request:
    """What was asked for. dtype: as the option spells it, None to keep the source's.

    part: the module whose streams are converted, None for all of the model.
    """

    to: To = "rmsnorm"
    target: Target = "auto"
    fold_affine: bool = False
    untie: bool = False
    dtype: str | None = None
    part: str | None = None

    @property
    def stored_dtype(self) -> str | None:
        """The dtype as safetensors spells it, None to keep the source's."""
        return stored_dtype(self.dtype) if self.dtype else None


@dataclass(frozen=True)
class Operation:
    """A surgery ready to be applied to the twin's files and to the real ones alike.

    examination: of the source. steps: surgeries in order. cast: to the storage dtype asked for, if
    one was; before the steps where it widens (cast_first), else after them. graft: the modeling
    file, None for a native target. architecture: the class that the result names. classes: Auto
    class → model class, of those that open it. forms: the ways in which the result opens, by name.
    centred: tensors of the result that must have zero mean, with the axis. bound: on the proof's
    error. context: the longest input that the result answers as the source does, None where
    nothing limits it. engines: expected to suit the result. alternatives: what else could have been
    chosen. lost: outputs of the source's class that the result's does not have.
    """

    examination: Examination
    steps: tuple[Step, ...]
    cast: Step | None
    cast_first: bool
    graft: Graft | None
    architecture: str
    classes: dict[str, str]
    form: str
    why: str
    forms: dict[str, Callable[[Path], type]]
    centred: dict[str, int]
    notes: tuple[str, ...]
    bound: float = EXACT_BOUND
    context: int | None = None
    engines: tuple[str, ...] = ("transformers",)
    alternatives: tuple[dict[str, Any], ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def auto_class(self) -> str:
        """The Auto class that opens the result."""
        return main_auto_class(self.classes, self.architecture)

    @property
    def guaranteed_outputs(self) -> tuple[str, ...]:
        """Outputs of the top level that keep their values."""
        anatomy = self.examination.anatomy
        gone = {*anatomy.exposed, *self.lost}
        return tuple(name for name in anatomy.outputs if name not in gone)

    def operate(self, source: Checkpoint) -> tuple[Checkpoint, list[Receipt]]:
        """The result and a receipt for each step."""
        casts = [self.cast] if self.cast else []
        steps = [*casts, *self.steps] if self.cast_first else [*self.steps, *casts]
        return self._apply(source, steps)

    def operate_in_float64(self, wide: Checkpoint) -> Checkpoint:
        """The result for a source whose tensors are float64 already."""
        return self._apply(wide, self.steps)[0]

    def prove(self) -> Proof:
        """Prove the operation on the twin, which stays in float64 (see `anatomy.proof`)."""
        return prove(
            self.examination,
            lambda twin: self._apply(twin, self.steps)[0],
            self.forms,
            centred=self.centred,
            exclusive=self.form == "graft",
            bound=self.bound,
            without=self.lost,
        )

    def _apply(self, source: Checkpoint, steps: Sequence[Step]) -> tuple[Checkpoint, list[Receipt]]:
        receipts = []
        for step in steps:
            source, receipt = step(source)
            receipts.append(receipt)
        return self.graft.attach(source) if self.graft else source, receipts


def general_notes(checkpoint: Checkpoint, examination: Examination) -> list[str]:
    """What holds for every target."""
    notes = []
    exposed = examination.anatomy.exposed
    if exposed:
        notes.append(f"not guaranteed: {', '.join(exposed)} shows the stream's mean")
    if checkpoint.left_out:
        files = ", ".join(checkpoint.left_out)
        notes.append(
            f"not carried over, as they hold the source's weights in another form: {files}"
        )
    return notes
