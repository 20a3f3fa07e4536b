"""`inspect`: what a checkpoint is made of, and what can be done to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.model import Anatomy
from normsurgery.anatomy.stacks import read_stacks
from normsurgery.api.batchnorm_rows import batch_norm_surgeries
from normsurgery.api.depth import depth_surgeries, stack_documents
from normsurgery.api.document import (
    block_documents,
    norm_documents,
    part_documents,
    peak_memory_bytes,
    source_document,
)
from normsurgery.api.folding.planning import fold_surgeries
from normsurgery.api.native import best_native, why_native
from normsurgery.api.removal.applies import removal_surgery
from normsurgery.checkpoint import Checkpoint, count_nonfinite, is_all_zero, open_checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.graft.plan import why_not_exclusive
from normsurgery.native.plan import native_plans
from normsurgery.report.progress import Progress, Silent
from normsurgery.surgery.bake_embedding_norm import bakeable
from normsurgery.surgery.crmsnorm import why_not_crmsnorm
from normsurgery.surgery.fold_norm import stream_sites, why_not_foldable
from normsurgery.version import VERSION


@dataclass(frozen=True)
class InspectResult:
    """The anatomy of a checkpoint, as a document."""

    document: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        return self.document


def inspect(
    model: str | Path,
    *,
    health: bool = False,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> InspectResult:
    """Read a checkpoint's anatomy; only headers are read, unless `health` asks for the values.

    (For a native target, the last norm's bias too, and what the configuration clips.)

    model: Hub id (with @revision) or directory. health: count NaN and Inf, find all-zero tensors.
    Raises SurgeryError: see the exit codes of its subclasses.
    """
    started = time.monotonic()
    checkpoint = open_checkpoint(model, allow_pickle=allow_pickle)
    examination = examine(checkpoint, trust_remote_code=trust_remote_code)
    anatomy = examination.anatomy
    stacks = read_stacks(examination)
    document = {
        "command": "inspect",
        "version": VERSION,
        "source": source_document(checkpoint, examination.model_class.__name__),
        "blocks": block_documents(checkpoint, examination),
        "parts": part_documents(checkpoint, examination),
        "stacks": stack_documents(stacks),
        "norms": norm_documents(checkpoint, examination),
        "writers": _writers(examination),
        "readers": _readers(anatomy),
        "carried": dict(examination.names.carried),
        "health": _health(checkpoint, progress or Silent()) if health else None,
        "surgeries": [
            *conversions(checkpoint, examination),
            *depth_surgeries(examination, stacks),
            removal_surgery(examination),
            *batch_norm_surgeries(checkpoint, examination),
            *fold_surgeries(checkpoint, examination),
        ],
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    return InspectResult(document)


def _writers(examination: Examination) -> list[dict[str, Any]]:
    return [
        {
            "name": writer.module or writer.weight,
            "kind": writer.kind,
            "tensor": writer.weight,
            "stream": position,
            "stream_dim": writer.stream_dim,
            "shared_with": writer.shared or None,
        }
        for position, stream in enumerate(examination.anatomy.streams)
        for writer in stream.writers
    ]


def _readers(anatomy: Anatomy) -> list[dict[str, Any]]:
    return [
        {"name": reader.module, "tensor": reader.weight, "norm": site.name, "in_dim": reader.in_dim}
        for site in anatomy.sites.values()
        for reader in site.readers
    ]


def conversions(checkpoint: Checkpoint, examination: Examination) -> list[dict[str, Any]]:
    """Every way to convert: whether it applies, to what, and why not."""
    anatomy, names = examination.anatomy, examination.names
    reason = anatomy.why_not()
    checks: list[tuple[str, str, Callable[[], str | None]]] = [
        ("convert --to rmsnorm", "stock", lambda: None),
        ("convert --to rmsnorm --fold-affine", "stock", lambda: _why_not_fold(examination)),
        ("convert --to rmsnorm --target graft", "graft", lambda: why_not_exclusive(names)),
        ("convert --to rmsnorm --untie", "stock", lambda: _why_not_untie(anatomy)),
        (
            "convert --to crmsnorm",
            "graft",
            lambda: why_not_exclusive(names) or why_not_crmsnorm(anatomy, names),
        ),
    ]
    rows = []
    for name, target, check in checks:
        why = reason or check()
        rows.append(
            {
                "name": name,
                "applies": why is None,
                "contract": "exact",
                "target": target,
                "reason": why or _remark(examination, name),
            }
        )
    rows.insert(1, _native(checkpoint, examination))
    return rows + [_part(part, anatomy) for part in anatomy.convertible_parts() if reason]


def _part(part: str, anatomy: Anatomy) -> dict[str, Any]:
    """A tower that converts although the whole model does not."""
    reading = sum(len(stream.sites) for stream in anatomy.only(part).convertible())
    return {
        "name": f"convert --to rmsnorm --part {part}",
        "applies": True,
        "contract": "exact",
        "target": "stock",
        "reason": f"{reading} LayerNorms read a residual stream there",
    }


def _native(checkpoint: Checkpoint, examination: Examination) -> dict[str, Any]:
    """The native target with what it costs, or the reasons why there is none."""
    reason = examination.anatomy.why_not()
    plan = None
    if reason is None:
        try:
            plans = native_plans(checkpoint, examination, reads_weights=False)
            plan = best_native(plans, examination)
        except UnsupportedModelError as error:
            reason = error.message
    return {
        "name": "convert --to rmsnorm --target native",
        "applies": plan is not None,
        "contract": "exact",
        "target": plan.architecture if plan else "native",
        "reason": why_native(plan) if plan else reason,
    }


def _why_not_fold(examination: Examination) -> str | None:
    sites = stream_sites(examination.anatomy)
    reasons = [why_not_foldable(site, examination.names) for site in sites]
    return next(iter(reasons), "no norm site") if all(reasons) else None


def _why_not_untie(anatomy: Anatomy) -> str | None:
    shared = [w for stream in anatomy.convertible() for w in stream.writers if w.shared]
    return None if shared else "no table is tied"


def _remark(examination: Examination, name: str) -> str:
    anatomy = examination.anatomy
    if name.endswith("--fold-affine"):
        sites = list(stream_sites(anatomy))
        folds = sum(why_not_foldable(site, examination.names) is None for site in sites)
        return f"{folds} of {len(sites)} norm sites fold"
    if name.endswith("--target graft") and bakeable(anatomy):
        return f"{bakeable(anatomy)[0].name} is baked into the embedding table"
    reading = sum(len(stream.sites) for stream in anatomy.convertible())
    return f"{reading} LayerNorms read a residual stream"


def _health(checkpoint: Checkpoint, progress: Progress) -> dict[str, Any]:
    nonfinite: list[dict[str, Any]] = []
    zero: list[str] = []
    total = sum(tensor.nbytes for tensor in checkpoint.values())
    with progress.task("health", total, "bytes") as advance:
        for name, tensor in checkpoint.items():
            nan, inf = count_nonfinite(tensor)
            if nan or inf:
                nonfinite.append({"name": name, "nan": nan, "inf": inf})
            elif is_all_zero(tensor):
                zero.append(name)
            advance(tensor.nbytes)
    return {"nonfinite": nonfinite, "all_zero": zero}
