"""Compose LayerNorm → RMSNorm (or CRMSNorm) from the surgeries, for one examined checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.model import NormSite
from normsurgery.api.native import choose_native
from normsurgery.api.operation import Operation, Request, Step, general_notes
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.graft.attach import Graft, make_graft
from normsurgery.graft.plan import GraftPlan, crmsnorm_plan, rmsnorm_plan, why_not_exclusive
from normsurgery.nearest import did_you_mean
from normsurgery.surgery.bake_embedding_norm import bake_embedding_norms, bakeable
from normsurgery.surgery.cast import cast, widens
from normsurgery.surgery.centre import centre_writers
from normsurgery.surgery.crmsnorm import drop_channel, why_not_crmsnorm
from normsurgery.surgery.fold_hyperplane import fold_hyperplanes
from normsurgery.surgery.fold_norm import fold_affine, stream_sites, why_not_foldable
from normsurgery.surgery.receipt import Receipt
from normsurgery.surgery.untie import separate_head


def plan_operation(
    checkpoint: Checkpoint, request: Request, *, trust_remote_code: bool = False
) -> Operation:
    """Choose the target and the steps for a checkpoint.

    Raises UnsupportedModelError with the reason where the surgery does not apply.
    """
    whole = examine(checkpoint, trust_remote_code=trust_remote_code)
    examination = _restricted(whole, request.part)
    _check_request(request, examination, whole)
    native = choose_native(checkpoint, examination, request)
    operation = native.operation
    if operation is None:
        operation = _stock_operation(checkpoint, examination, request, trust_remote_code)
        if native.why_not:
            why = f"{operation.why}; no native target comes free ({native.why_not})"
            operation = replace(operation, why=why)
    return replace(operation, alternatives=native.alternatives)


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
    after = _restricted(after, request.part)
    plan, main = _main_steps(after, request, baked)
    steps += main
    dtype = request.stored_dtype
    reason = why_not_exclusive(after.names) if exclusive else None
    if reason:
        raise UnsupportedModelError(reason, "--to rmsnorm --target stock")
    renames = _in_memory_names(after) if exclusive else {}
    if renames:
        steps.append(partial(_renamed, names=renames))
    graft = make_graft(
        after, plan, source=checkpoint.model_id, part=request.part,
        folded=_folded_sites(after, request),
    )  # fmt: skip
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


def _restricted(examination: Examination, part: str | None) -> Examination:
    """The examination with the streams of one part only; UsageError for a part that has none."""
    if part is None:
        return examination
    anatomy = examination.anatomy.only(part)
    if not anatomy.streams:
        known = dict.fromkeys(s.part or "." for s in examination.anatomy.layer_norm_streams())
        raise UsageError(
            f"--part {part}: no residual stream that LayerNorms read lies in such a module",
            f"{did_you_mean(str(part), known)}parts with one: {', '.join(known) or 'none'}",
        )
    return replace(examination, anatomy=anatomy)


def _check_request(request: Request, examination: Examination, whole: Examination) -> None:
    if request.to == "crmsnorm" and request.target in ("stock", "native"):
        raise UsageError(
            "CRMSNorm is one channel narrower than any stock class",
            "--to crmsnorm --target graft, or --to rmsnorm",
        )
    if request.target == "native" and (request.fold_affine or request.untie or request.part):
        raise UsageError(
            "a native target folds and unties what its class needs, in the whole model",
            "leave --fold-affine, --untie and --part out",
        )
    reason = examination.anatomy.why_not()
    if reason:
        parts = whole.anatomy.convertible_parts()
        offer = f"--part {parts[0]} converts that part" if parts else ""
        raise UnsupportedModelError(
            reason, offer or "normsurgery inspect MODEL   # what does apply"
        )


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
    renamed = _in_memory_names(examination) if exclusive else {}
    for stream in examination.anatomy.convertible():
        for writer in stream.writers:
            if not writer.shared:
                for name, part in examination.names.on_disk(writer.weight):
                    found[renamed.get(name, name)] = part.axis(writer.stream_dim)
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
    notes += [f"{name} stays a LayerNorm: {reason}" for name, reason in anatomy.left.items()]
    notes += [f"{name} is not offered: {reason}" for name, reason in graft.refused.items()]
    return tuple(dict.fromkeys([*notes, *general_notes(checkpoint, examination)]))
