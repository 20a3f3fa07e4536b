"""Compose a norm-free result from the surgeries: as a graft, or in the stock class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.new_bias import takes_new_bias
from normsurgery.anatomy.norm_paths import NormPath
from normsurgery.anatomy.proof import Proof
from normsurgery.api.removal.proof import PROOF_POWER, Variant, prove_norm_free
from normsurgery.checkpoint import Checkpoint
from normsurgery.graft.attach import Graft, make_graft
from normsurgery.graft.plan import normfree_plan
from normsurgery.surgery.frozen_sites import FrozenSite, frozen_sites
from normsurgery.surgery.in_memory_form import in_memory_form, in_memory_names
from normsurgery.surgery.norm_free import fold_frozen
from normsurgery.surgery.norm_free_stock import Division, choose_division, fold_stock
from normsurgery.surgery.receipt import Receipt
from normsurgery.surgery.untie import separate_head

Export = Literal["graft", "stock"]
Step = Callable[[Checkpoint], tuple[Checkpoint, Receipt]]


@dataclass(frozen=True)
class NormFree:
    """A norm-free export, ready for the twin's files and for the real ones.

    form: "graft", "partial" (a graft where some norms of the streams still divide) or "stock".
    examination: of the source. after: of the checkpoint once its head is untied, where it is.
    paths, sigma: of the real model. division: ε of the stock form, None for a graft. forms: the
    ways in which the result opens, by name. graft: the modeling file, None for stock.
    notes: what a user should know.
    """

    form: str
    examination: Examination
    after: Examination
    paths: tuple[NormPath, ...]
    twin_paths: tuple[NormPath, ...]
    sigma: Mapping[str, float]
    biasable: frozenset[str] | None
    untie: Step | None
    graft: Graft | None
    division: Division | None
    notes: tuple[str, ...]

    @property
    def forms(self) -> dict[str, Callable[[Path], type]]:
        if self.graft is not None:
            return {"graft": self.graft.class_of()}
        return {"stock": lambda _: self.examination.model_class}

    def operate(self, source: Checkpoint) -> tuple[Checkpoint, list[Receipt]]:
        """The result and a receipt for each step. source: with the trained W, γ and β in it."""
        return self._made(source, self.paths, self.sigma, centre=True)

    def prove(self, *, seed: int = 0) -> Proof:
        """Prove the export on the twin, with σ̂ drawn at random (see `proof`)."""

        def operate(variant: Variant) -> Callable[[Checkpoint], Checkpoint]:
            return lambda twin: proved._made(
                twin, variant.paths, variant.sigma, centre=variant.centre
            )[0]

        division = self.division and replace(self.division, power=PROOF_POWER)
        proved = replace(self, division=division)

        return prove_norm_free(
            self.examination, self.twin_paths, operate, self.forms,
            seed=seed, stock=self.graft is None, folds_mean=self._folds_mean(),
        )  # fmt: skip

    def _folds_mean(self) -> bool:
        sites = self._sites(self.paths, self.sigma)
        return self.graft is not None and any(site.centres and not site.stays for site in sites)

    def _sites(
        self, paths: Sequence[NormPath], sigma: Mapping[str, float]
    ) -> tuple[FrozenSite, ...]:
        return frozen_sites(
            paths, sigma, self.after.anatomy, biasable=self.biasable,
            parted=_parted(self.twin_paths),
        )  # fmt: skip

    def _made(
        self,
        source: Checkpoint,
        paths: Sequence[NormPath],
        sigma: Mapping[str, float],
        *,
        centre: bool,
    ) -> tuple[Checkpoint, list[Receipt]]:
        receipts = []
        for step in self._steps(paths, sigma, centre):
            source, receipt = step(source)
            if receipt.changed or receipt.added or receipt.dropped or receipt.config:
                receipts.append(receipt)
        return self.graft.attach(source) if self.graft else source, receipts

    def _steps(
        self, paths: Sequence[NormPath], sigma: Mapping[str, float], centre: bool
    ) -> list[Step]:
        sites = self._sites(paths, sigma)
        names = self.after.names
        steps = [self.untie] if self.untie else []
        if self.division is not None:
            division = self.division
            return [*steps, lambda source: fold_stock(source, names, sites, division)]
        own = in_memory_names(names)
        return [
            *steps,
            lambda source: in_memory_form(source, names),
            lambda source: fold_frozen(source, own, sites, centre=centre),
        ]


def plan_norm_free(
    checkpoint: Checkpoint,
    examination: Examination,
    paths: Sequence[NormPath],
    twin_paths: Sequence[NormPath],
    sigma: Mapping[str, float],
    *,
    export: Export,
    variance: float | None = None,
    untie: bool = False,
    trust_remote_code: bool = False,
) -> NormFree:
    """Choose the steps for a checkpoint whose norms `paths` have the frozen divisors `sigma`.

    paths: of the real model; twin_paths: the same, of `examination.twin.model`, which decide what a
    form can hold: paths of one site have different σ̂ sooner or later. variance: the
    largest that any of these norms saw (`stock` needs it). untie: give a tied head a table of its
    own in the stock form too; a graft does so where it must.
    Raises UnsupportedModelError with the reason where the form cannot hold the function.
    """
    after, step = examination, None
    if (export == "graft" or untie) and _reads_tied(paths, examination):
        after, step = separate_head(checkpoint, examination, trust_remote_code=trust_remote_code)
    biasable: frozenset[str] | None = None
    if export == "graft":
        biasable = frozenset(takes_new_bias(after.twin, _without_bias(paths, after)))
    sites = frozen_sites(paths, sigma, after.anatomy, biasable=biasable, parted=_parted(twin_paths))
    graft, division, notes = None, None, list[str]()
    if export == "graft":
        graft = make_graft(after, normfree_plan(sites), source=checkpoint.model_id)
        notes += _notes(sites)
        notes += [f"{name} is not offered: {reason}" for name, reason in graft.refused.items()]
    else:
        division = choose_division(checkpoint, after, sites, variance=variance)
        notes += division.notes
    if step is not None:
        notes.append("untied: the head has a table of its own now")
    left = _left(after, sites)
    form = "partial" if export == "graft" and left else export
    return NormFree(
        form, examination, after, tuple(paths), tuple(twin_paths), dict(sigma), biasable, step,
        graft, division, tuple(notes),
    )  # fmt: skip


def _parted(paths: Sequence[NormPath]) -> set[str]:
    """Sites that have several paths."""
    sites = [path.site.name for path in paths]
    return {name for name in sites if sites.count(name) > 1}


def _reads_tied(paths: Sequence[NormPath], examination: Examination) -> bool:
    """Whether a norm on these paths is read by a tied table."""
    tied = examination.anatomy.tied
    shared = {*tied, *(name for group in tied.values() for name in group)}
    sites = {path.site.name for path in paths}
    return any(
        reader.weight in shared
        for name in sites
        for reader in examination.anatomy.sites[name].readers
    )


def _without_bias(paths: Sequence[NormPath], after: Examination) -> set[str]:
    sites = [after.anatomy.sites[path.site.name] for path in paths]
    return {
        reader.module
        for site in sites
        if site.norm.bias
        for reader in site.readers
        if not reader.bias
    }


def _left(after: Examination, sites: Sequence[FrozenSite]) -> list[str]:
    """Norms that read a stream of blocks and still divide."""
    gone = {site.site.name for site in sites}
    return [
        name
        for stream in after.anatomy.streams
        if stream.repeated
        for name in stream.sites
        if name not in gone
    ]


def _notes(sites: Sequence[FrozenSite]) -> list[str]:
    stay = [site for site in sites if site.stays]
    return [f"{site.site.name} stays as an affine map: {site.stays}" for site in stay[:3]] + (
        [f"and {len(stay) - 3} more norms"] if len(stay) > 3 else []
    )
