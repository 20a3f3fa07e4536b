"""Compose LayerNorm → RMSNorm (or CRMSNorm) from the surgeries, for one examined checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.model import NormSite
from normsurgery.anatomy.proof import EXACT_BOUND, Proof, prove
from normsurgery.api.native import alternatives, best_native, for_auto, reasons, why_native
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.graft.attach import Graft, main_auto_class, make_graft
from normsurgery.graft.classes import auto_classes
from normsurgery.graft.plan import GraftPlan, crmsnorm_plan, rmsnorm_plan
from normsurgery.native.plan import NativePlan, Refusal, native_plans
from normsurgery.surgery.bake_embedding_norm import bake_embedding_norms, bakeable
from normsurgery.surgery.cast import cast, stored_dtype, widens
from normsurgery.surgery.centre import centre_writers
from normsurgery.surgery.crmsnorm import drop_channel, why_not_crmsnorm
from normsurgery.surgery.fold_hyperplane import fold_hyperplanes
from normsurgery.surgery.fold_norm import fold_affine, stream_sites, why_not_foldable
from normsurgery.surgery.receipt import Receipt
from normsurgery.surgery.untie import separate_head

To = Literal["rmsnorm", "crmsnorm"]
Target = Literal["auto", "native", "stock", "graft"]
Step = Callable[[Checkpoint], tuple[Checkpoint, Receipt]]


@dataclass(frozen=True)
class Request:
    """What was asked for. dtype: as the option spells it, None to keep the source's."""

    to: To = "rmsnorm"
    target: Target = "auto"
    fold_affine: bool = False
    untie: bool = False
    dtype: str | None = None


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


def plan_operation(
    checkpoint: Checkpoint, request: Request, *, trust_remote_code: bool = False
) -> Operation:
    """Choose the target and the steps for a checkpoint.

    Raises UnsupportedModelError with the reason where the surgery does not apply.
    """
    examination = examine(checkpoint, trust_remote_code=trust_remote_code)
    _check_request(request, examination)
    found = _native(checkpoint, examination, request)
    chosen = best_native(found, examination) if request.target == "native" else for_auto(found)
    others = alternatives(found, chosen, checkpoint, examination.model_class.__name__)
    if chosen is not None:
        operation = _native_operation(checkpoint, examination, chosen, request)
    else:
        operation = _stock_operation(checkpoint, examination, request, trust_remote_code)
        if found:
            why = f"{operation.why}; no native target is free ({reasons(found)})"
            operation = replace(operation, why=why)
    return replace(operation, alternatives=tuple(others))


def _native(
    checkpoint: Checkpoint, examination: Examination, request: Request
) -> list[NativePlan | Refusal]:
    """Native targets, where the request leaves room for one."""
    plain = request.to == "rmsnorm" and not request.fold_affine and not request.untie
    if request.target == "native" or (request.target == "auto" and plain):
        dtype = stored_dtype(request.dtype) if request.dtype else None
        return native_plans(checkpoint, examination, dtype=dtype)
    return []


def _native_operation(
    checkpoint: Checkpoint, examination: Examination, plan: NativePlan, request: Request
) -> Operation:
    dtype = stored_dtype(request.dtype) if request.dtype else None
    named = auto_classes(plan.config, plan.model_class)
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
        notes=(*_lost(plan), *_general_notes(checkpoint, examination)),
        bound=plan.bound,
        context=plan.context[1],
        engines=plan.engines,
        lost=plan.lost,
    )


def _lost(plan: NativePlan) -> list[str]:
    return [f"not there any more: {name}, which {plan.architecture} lacks" for name in plan.lost]


def _stock_operation(
    checkpoint: Checkpoint, examination: Examination, request: Request, trust_remote_code: bool
) -> Operation:
    """The source's own class and a modeling file beside it, or the modeling file alone."""
    exclusive = request.target == "graft" or request.to == "crmsnorm"
    baked = bakeable(examination.anatomy) if exclusive else []
    shared = [w for s in examination.anatomy.convertible() for w in s.writers if w.shared]
    tied_table = bool(shared) or any(_is_tied(site, examination) for site in baked)
    loose = tied_table and (request.untie or request.to == "crmsnorm" or bool(baked))
    after, steps = examination, list[Step]()
    if loose:
        after, step = separate_head(checkpoint, examination, trust_remote_code=trust_remote_code)
        steps.append(step)
    plan, main = _main_steps(after, request, baked)
    steps += main
    dtype = stored_dtype(request.dtype) if request.dtype else None
    renames = _in_memory_names(after) if exclusive else {}
    if renames:
        steps.append(partial(_renamed, names=renames))
    graft = make_graft(
        after, plan, source=checkpoint.model_id, folded=_folded_sites(after, request)
    )
    forms: dict[str, Callable[[Path], type]] = {"graft": graft.class_of()}
    if not exclusive:
        forms = {"stock": lambda _: examination.model_class, **forms}
    return Operation(
        examination, tuple(steps), partial(cast, dtype=dtype) if dtype else None,
        bool(dtype and widens(checkpoint, dtype)), graft,
        examination.model_class.__name__, graft.classes, "graft" if exclusive else "stock",
        _why(request, baked, exclusive), forms, _centred_names(after, request, exclusive),
        _notes(checkpoint, after, graft, loose),
    )  # fmt: skip


def _check_request(request: Request, examination: Examination) -> None:
    if request.to == "crmsnorm" and request.target in ("stock", "native"):
        raise UsageError(
            "CRMSNorm is one channel narrower than any stock class",
            "--to crmsnorm --target graft, or --to rmsnorm",
        )
    if request.target == "native" and (request.fold_affine or request.untie):
        raise UsageError(
            "a native target folds and unties what its class needs, no more and no less",
            "leave --fold-affine and --untie out",
        )
    reason = examination.anatomy.why_not()
    if reason:
        raise UnsupportedModelError(reason, "normsurgery inspect MODEL   # what does apply")


def _is_tied(site: NormSite, examination: Examination) -> bool:
    return site.table in examination.anatomy.tied


def _main_steps(
    examination: Examination, request: Request, baked: list[NormSite]
) -> tuple[GraftPlan, list[Step]]:
    anatomy, names = examination.anatomy, examination.names
    steps: list[Step] = []
    if baked:
        steps.append(lambda source: bake_embedding_norms(source, baked, names))
    if request.fold_affine and request.to == "rmsnorm":
        steps.append(lambda source: fold_affine(source, anatomy, names))
    steps.append(lambda source: centre_writers(source, anatomy, names))
    if any(stream.raw_readers for stream in anatomy.convertible()):
        steps.insert(0, lambda source: fold_hyperplanes(source, anatomy, names))
    if request.to == "crmsnorm":
        reason = why_not_crmsnorm(anatomy, names)
        if reason:
            raise UnsupportedModelError(reason, "--to rmsnorm keeps the width and has no such need")
        steps.append(lambda source: drop_channel(source, anatomy, names))
        return crmsnorm_plan(anatomy), steps
    gone = tuple(site.name for site in baked)
    return rmsnorm_plan(anatomy, baked=gone, exclusive=request.target == "graft"), steps


def _folded_sites(examination: Examination, request: Request) -> list[str]:
    sites = stream_sites(examination.anatomy)
    if request.to == "crmsnorm":
        return [site.name for site in sites]
    return [
        s.name for s in sites if request.fold_affine and not why_not_foldable(s, examination.names)
    ]


def _in_memory_names(examination: Examination) -> dict[str, str]:
    """Names on disk that the stock type's loader renames: an exclusive graft has its own type."""
    return {
        name: part.parameter
        for name, part in examination.names.parts.items()
        if part.index is None and not part.transposed and name != part.parameter
    }


def _renamed(source: Checkpoint, *, names: dict[str, str]) -> tuple[Checkpoint, Receipt]:
    present = {old: new for old, new in names.items() if old in source}
    parameters = {"renamed": len(present)}
    return source.rename(present), Receipt("rename", "exact", parameters, kept=len(source))


def _centred_names(examination: Examination, request: Request, exclusive: bool) -> dict[str, int]:
    """Tensors on disk that must have zero mean after the surgery, with the axis."""
    found: dict[str, int] = {}
    if request.to == "crmsnorm":
        return found  # minus the sum of the channels is the one that was dropped
    for stream in examination.anatomy.convertible():
        for writer in stream.writers:
            if not writer.shared:
                for name, part in examination.names.on_disk(writer.weight):
                    found[part.parameter if exclusive else name] = part.axis(writer.stream_dim)
    return found


def _why(request: Request, baked: list[NormSite], exclusive: bool) -> str:
    if request.to == "crmsnorm":
        return "CRMSNorm drops one channel, and no stock class has that width"
    if baked:
        return f"--target graft: {baked[0].name} is baked into the embedding table"
    if exclusive:
        return "--target graft: the stock class refuses this checkpoint"
    return (
        "centred weights are the same function in the stock class, so one checkpoint opens there "
        "without custom code and as RMSNorm with trust_remote_code=True"
    )


def _notes(
    checkpoint: Checkpoint, examination: Examination, graft: Graft, loose: bool
) -> tuple[str, ...]:
    """What a user should know of the choices made and of what is not guaranteed."""
    anatomy = examination.anatomy
    notes = []
    for stream in anatomy.convertible():
        shared = {writer.module: writer for writer in stream.writers if writer.shared}
        notes += [
            f"tied head: {writer.weight} stays as it is: {writer.shared} reads it too, and a "
            "centred table would change the logits unless the final norm had a constant γ and "
            "Σβ = 0; the RMSNorm form centres what is looked up (--untie writes the head out)"
            for writer in shared.values()
        ]
        notes += [
            f"the RMSNorm form subtracts the mean at the {door.at} of {door.module}: {door.reason}"
            for door in stream.online
            if door.module not in shared
        ]
    if loose:
        notes.append("untied: the head has a table of its own now")
    notes += [f"{name} is not offered: {reason}" for name, reason in graft.refused.items()]
    return tuple(dict.fromkeys([*notes, *_general_notes(checkpoint, examination)]))


def _general_notes(checkpoint: Checkpoint, examination: Examination) -> list[str]:
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
