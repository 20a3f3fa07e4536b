"""How a model whose norms are frozen is stored: graft, partial graft, or the stock class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.norm_paths import NormPath, ReaderPart
from normsurgery.anatomy.proof import Proof
from normsurgery.api.removal.norm_free import NormFree, plan_norm_free
from normsurgery.api.removal.request import Export
from normsurgery.api.same_class import target_document
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError
from normsurgery.surgery.receipt import Receipt
from normsurgery.surgery.set_parameters import set_parameters
from normsurgery.verify import ModelSource

_ANY_VARIANCE = 1.0  # before any is measured
_WHY = {
    "stock": "every norm divides by a constant that the readers undo, so the class stays its own",
    "graft": "no norm is left, so the stock class would compute something else",
    "partial": "some norms are gone, so the stock class would compute something else",
}


@dataclass(frozen=True)
class Exported:
    """What is to be written. plan: of the export. receipts: a step each."""

    checkpoint: Checkpoint
    receipts: tuple[Receipt, ...]
    plan: NormFree

    def saved(self, staged: Path) -> ModelSource:
        """The result in a staged directory."""
        return ModelSource(staged, self.plan.forms[self.form](staged))

    @property
    def form(self) -> str:
        """The way in which the result opens: graft or stock."""
        return next(iter(self.plan.forms))

    @property
    def bound(self) -> float:
        """What the form itself may add to an error: of stock, a norm's var/2ε at every site."""
        division = self.plan.division
        return 0.0 if division is None else division.error * len(self.plan.paths)


@dataclass(frozen=True)
class Exporter:
    """examination: of the source. twin_paths: what is removed, on the twin. hollow: the plan with
    every scale 1, which a dry run shows and the proof uses."""

    examination: Examination
    twin_paths: tuple[NormPath, ...]
    wanted: Export
    hollow: NormFree
    trust_remote_code: bool = False

    @staticmethod
    def of(
        source: Checkpoint,
        examination: Examination,
        twin_paths: Sequence[NormPath],
        wanted: Export,
        *,
        trust_remote_code: bool,
    ) -> Exporter:
        """Raises UnsupportedModelError where the form cannot hold the result, with the reason."""
        whole = _whole(twin_paths)
        hollow = plan_norm_free(
            source, examination, whole, twin_paths, {path.name: 1.0 for path in whole},
            export=_kind(wanted), variance=_ANY_VARIANCE, trust_remote_code=trust_remote_code,
        )  # fmt: skip
        if hollow.form == "partial" and wanted != "partial":
            raise UnsupportedModelError(
                "norms that read the stream are left, so some would still divide",
                "--export partial",
            )
        return Exporter(examination, tuple(twin_paths), wanted, hollow, trust_remote_code)

    def prove(self) -> Proof:
        """Prove the export on the twin, before anything trains (see `NormFree.prove`)."""
        return self.hollow.prove()

    def plan(self, source: Checkpoint) -> Exported:
        """What would be written, as headers have it."""
        result, receipts = self.hollow.operate(source)
        return Exported(result, tuple(receipts), self.hollow)

    def export(
        self,
        source: Checkpoint,
        values: Mapping[str, Tensor],
        paths: Sequence[NormPath],
        scales: Mapping[str, float],
        *,
        variance: float,
        contract: str,
        about: Mapping[str, Any],
    ) -> Exported:
        """values: parameters that trained, none where nothing did. paths: of the real model.

        scales: σ̂ by path. variance: the largest that a norm saw. about: for the first receipt.
        """
        receipts: list[Receipt] = []
        if values:
            source, receipt = set_parameters(
                source, self.examination.names, values,
                surgery="train", contract=contract, parameters=about,
            )  # fmt: skip
            receipts.append(receipt)
        plan = plan_norm_free(
            source, self.examination, paths, self.twin_paths, scales,
            export=_kind(self.wanted), variance=variance,
            trust_remote_code=self.trust_remote_code,
        )  # fmt: skip
        result, folded = plan.operate(source)
        if not values:  # the function changes with the norms, and nothing made up for it
            folded[-1] = replace(
                folded[-1], contract=contract, parameters={**folded[-1].parameters, **about}
            )
        return Exported(result, (*receipts, *folded), plan)

    def target(self) -> dict[str, Any]:
        """The document's `target`."""
        graft = self.hollow.graft
        document = target_document(self.examination, _WHY[self.wanted])
        if graft is None:
            return {**document, "modeling_file": False}
        return {
            **document,
            "form": "graft",
            "modeling_file": True,
            "architecture": graft.class_name,
            "auto_class": graft.auto_class,
            "auto_classes": list(graft.classes),
        }


def _kind(wanted: Export) -> Literal["graft", "stock"]:
    return "stock" if wanted == "stock" else "graft"


def _whole(paths: Iterable[NormPath]) -> tuple[NormPath, ...]:
    """One path a site, all of its readers whole: for headers, which know no channels.

    A site of which only some paths go stays as it is.
    """
    sites: dict[str, list[NormPath]] = {}
    for path in paths:
        sites.setdefault(path.site.name, []).append(path)
    found: list[NormPath] = []
    for members in sites.values():
        first = members[0]
        if len(members) == 1 or len(members) < first.shared:
            found += members
            continue
        parts = tuple(ReaderPart(reader) for reader in first.site.readers)
        found.append(replace(first, name=first.site.name, parts=parts, shared=1))
    return tuple(found)
