"""A model whose norms are frozen becomes files: folded, written, verified, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from normsurgery.api.healing import CHECK_ROWS, model_source, with_saved
from normsurgery.api.removal.export import Exported
from normsurgery.api.removal.measuring import (
    calibrated,
    compared,
    fed,
    freeze_all,
    measured_on_disk,
    original,
    statistics_document,
    text_of,
    vocabulary_document,
)
from normsurgery.api.removal.request import CALIBRATION_TOKENS
from normsurgery.api.removal.task import Task
from normsurgery.train.domains import Domains
from normsurgery.train.norms.attach import Removal
from normsurgery.train.norms.variance import largest_variance
from normsurgery.train.saved import folded_check
from normsurgery.verify import ModelSource, VerifyOptions, judge, run_reference
from normsurgery.verify.losses import Measured

VARIANCE_TOKENS = 16_384  # of each domain


@dataclass(frozen=True)
class Frozen:
    """model: in memory, eval, every path of `removal` frozen. values: parameters that trained.

    about: what the receipt says of the run. notes: what it had to say. measured: other models on
    the same text, in the order of the report.
    """

    model: Any
    removal: Removal
    values: Mapping[str, Tensor]
    about: Mapping[str, Any]
    notes: tuple[str, ...]
    measured: Mapping[str, Measured]

    @property
    def scales(self) -> dict[str, float]:
        """σ̂ by path."""
        return {name: sigma.ordinary for name, sigma in self.removal.sigmas().items()}


def one_shot_removed(task: Task, document: Mapping[str, Any]) -> dict[str, Any]:
    """Every path frozen at its calibrated scale at once; nothing trains."""
    domains = text_of(task, task.request.tokens or CALIBRATION_TOKENS)
    holes, notes = vocabulary_document(task, domains.training)
    added: dict[str, Any] = {
        "proof": task.exporter.prove().to_dict(), "vocabulary": holes,
    }  # fmt: skip
    measured = {"original": original(task, domains)}
    with calibrated(task, domains.training) as (model, removal):
        added["statistics"] = statistics_document(task, removal)
        freeze_all(removal)
        about = {"calibration": domains.training.about, "sites": list(task.request.sites)}
        frozen = Frozen(model, removal, {}, about, tuple(notes), measured)
        added["calibration"] = domains.training.about
        return written(task, {**document, **added}, frozen, domains, added)


def written(
    task: Task,
    document: Mapping[str, Any],
    frozen: Frozen,
    domains: Domains,
    added: Mapping[str, Any],
) -> dict[str, Any]:
    """Fold, write, verify, measure and publish; `added` with what that adds to the document.

    Raises VerificationError where the saved files are not the model in memory, or not linear.
    """
    request = task.request
    exported = task.exporter.export(
        task.source, frozen.values, frozen.removal.paths, frozen.scales,
        variance=_variance(task, frozen, domains), contract=request.contract, about=frozen.about,
    )  # fmt: skip
    receipts = [*task.receipts, *exported.receipts]
    notes = [*task.notes, *frozen.notes, *exported.plan.notes]
    made: dict[str, Any] = {
        **added,
        "receipts": [one.to_dict() for one in receipts],
        "notes": notes,
        "reproduce": request.command(task.subject.checkpoint.model_id),
    }
    recipe = {"source": task.subject.checkpoint.model_id, "steps": [request.step()]}
    papers = {**document, **made, "recipe": recipe}
    beside: dict[str, Any] = {}

    def verified(staged: Path) -> dict[str, Any]:
        saved = exported.saved(staged)
        measured = {**frozen.measured, "result": measured_on_disk(task, saved, domains)}
        beside.update(compared(task, domains, measured))
        if not request.verify:
            return {"verdict": "skipped", "contract": request.contract}
        found = _verification(task, frozen, exported, saved, domains)
        linear = found[exported.form].get("linearity")
        beside.update({} if linear is None else {"linearity": linear})
        return found

    made |= task.writing.write(
        task.subject.checkpoint, exported.checkpoint, papers, verified, notes=notes,
        beside=beside,
    )  # fmt: skip
    return {**made, **beside}


def _variance(task: Task, frozen: Frozen, domains: Domains) -> float:
    """The largest that a norm of the frozen model sees in text that did not train."""
    device = next(frozen.model.parameters()).device
    texts = [rows.at_most(VARIANCE_TOKENS) for rows in domains.measured.values()]
    with frozen.removal.still():
        batches = (batch for rows in texts for batch in fed(rows, device))
        return largest_variance(frozen.model, frozen.removal.paths, batches)


def _verification(
    task: Task, frozen: Frozen, exported: Exported, saved: ModelSource, domains: Domains
) -> dict[str, Any]:
    """The saved files against the frozen model in memory, and beside the model as it was."""
    held_out = next(iter(domains.measured.values()))
    with frozen.removal.still():
        check = folded_check(
            frozen.model, tuple(frozen.values), exported.checkpoint,
            task.subject.examination.names, saved, held_out.ids[:CHECK_ROWS], bound=exported.bound,
        )  # fmt: skip
    request = task.request
    options = VerifyOptions(
        contract=request.contract, device=request.device, seed=request.seed,
        linearity=request.export == "graft" and task.why_not_linear is None,
    )  # fmt: skip
    progress = task.writing.progress
    reference = run_reference(model_source(task.subject), options, progress=progress)
    judged = judge(reference, saved, progress=progress).to_dict()
    said = (
        f"the saved files' logits are {check['error']:.3g} × std from those of the model in "
        f"memory, {check['allowed']:.3g} is allowed; rounding to the storage dtype moves "
        f"{check['rounding']:.3g}"
    )
    return with_saved(judged, check, said, form=exported.form, contract=request.contract)
