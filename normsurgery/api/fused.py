"""A pass: several exact steps, the source read and the result written once.

Every step is planned and proved in turn, on the lazy result of the one before it. Then the last
result is written and verified once, in every form that it opens in, against the first source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from normsurgery.api.folding.kurtosis import not_measured
from normsurgery.api.handover import Claim, Handed, NotFusedError, handing_over
from normsurgery.api.same_class import unverified
from normsurgery.api.writing import Writing
from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.composed import Applied, rounded_once
from normsurgery.surgery.receipt import Receipt
from normsurgery.verify import ModelSource, VerifyOptions, judge, run_reference

Surgery = Callable[[], dict[str, Any]]
"""Runs one step within a hand-over; its document."""


def hand_over(source: Checkpoint, directory: Path, surgery: Surgery) -> Handed:
    """One step of a pass, planned and proved on `source`; the weights stay where they are.

    directory: is made, for what the next step reads besides weights.
    Raises NotFusedError where the step needs files, and what the surgery raises.
    """
    with handing_over(source, directory) as place:
        document = surgery()
    if place.offered is None:
        raise NotFusedError("it works on files")
    return replace(place.offered, document=document)


def composed(handed: Sequence[Handed]) -> Checkpoint:
    """What a pass writes."""
    return rounded_once([Applied(one.claim.operate, one.before, one.after) for one in handed])


def write_pass(handed: Sequence[Handed], target: Path) -> dict[str, Any]:
    """Write what the steps make together to `target`, verified; what this adds to the document.

    Raises VerificationError, and what writing raises.
    """
    source, last = handed[0].before, handed[-1]
    writing = _writing(handed, target)
    beside: dict[str, Any] = {}

    def verified(staged: Path) -> dict[str, Any]:
        if not all(one.claim.verify for one in handed):
            return unverified("exact")
        beside.update(_measured(handed, staged))
        return _verified(source, [one.claim for one in handed], staged, writing)

    added = writing.write(
        source, composed(handed), last.papers, verified, notes=last.notes, beside=beside
    )
    return added | beside


def plan_pass(handed: Sequence[Handed]) -> dict[str, Any]:
    """What a dry run says would be written; reads headers only."""
    source, result = handed[0].before, composed(handed)
    changed = tuple(
        name
        for name, tensor in result.items()
        if name in source and tensor.source is not source[name].source
    )
    receipt = Receipt("pass", "exact", changed=changed)
    return handed[-1].writing.plan(source, result, [receipt], "exact")


def documents_of(handed: Sequence[Handed], first: int = 1) -> list[dict[str, Any]]:
    """What each surgery said. first: the number of the first step."""
    return [_from_step(one.document, first + place) for place, one in enumerate(handed)]


def papers_of(
    handed: Sequence[Handed], written: Mapping[str, Any], first: int
) -> list[dict[str, Any]]:
    """What each surgery would have written. written: the last one's papers, as they are."""
    earlier = [
        {
            **one.papers,
            "files": dict(written["files"]),
            "card": {"not_guaranteed": list(one.notes)},
        }
        for one in handed[:-1]
    ]
    papers = [*earlier, dict(written)]
    return [_from_step(one, first + place) for place, one in enumerate(papers)]


def _from_step(document: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The document, its source named as what the step before made."""
    if number == 1:
        return dict(document)
    source = {**document["source"], "model": f"step-{number - 1}", "revision": None}
    return {**document, "source": source}


def mark_verified(documents: Sequence[dict[str, Any]], first: int) -> None:
    """Say of each step of a pass with which one it was verified, and of that one since where."""
    last = first + len(documents) - 1
    verification = documents[-1]["verification"]
    for document in documents[:-1]:
        document["verification"] = {
            "verdict": verification["verdict"], "contract": "exact", "with_step": last,
        }  # fmt: skip
    documents[-1]["verification"] = {**verification, "since_step": first}


def _writing(handed: Sequence[Handed], target: Path) -> Writing:
    """As the last step writes; a limit that an earlier one set, and it did not, stands, and what
    one of them has drawn is drawn."""
    limits = [one.writing.max_shard_size for one in handed if one.writing.max_shard_size]
    return replace(
        handed[-1].writing,
        output=target,
        max_shard_size=limits[-1] if limits else None,
        allow_nonfinite=all(one.writing.allow_nonfinite for one in handed),
        plots=any(one.writing.plots for one in handed),
    )


def _measured(handed: Sequence[Handed], staged: Path) -> dict[str, Any]:
    """What the steps measure on files beside the verification, where the files of the pass tell."""
    asked = [one.claim for one in handed if one.claim.beside is not None]
    alike = len({one.claim.model_class for one in handed}) == 1
    if not alike or any(one.claim.renumbers for one in handed):
        said = [one for one in handed if "kurtosis" in one.document]
        reason = "it is one pass with a step after which the blocks are others"
        return {"kurtosis": not_measured(reason)} if said else {}
    found: dict[str, Any] = {}
    for claim in asked:
        assert claim.beside is not None
        found |= claim.beside(handed[0].before, staged)
    return found


def _verified(
    source: Checkpoint, claims: Sequence[Claim], staged: Path, writing: Writing
) -> dict[str, Any]:
    """The `verification` of a staged directory: the last one's forms against the first source."""
    reference = run_reference(
        ModelSource(source.directory, claims[0].model_class, allow_pickle=writing.allow_pickle),
        _options(claims),
        progress=writing.progress,
    )
    for claim in claims:
        if claim.inputs is not None:
            batches = tuple(
                replace(batch, inputs=dict(claim.inputs(batch.inputs)))
                for batch in reference.plan.batches
            )
            reference.plan = replace(reference.plan, batches=batches)
    found: dict[str, Any] = {}
    for form, class_of in claims[-1].forms.items():
        candidate = ModelSource(staged, class_of(staged))
        found[form] = judge(reference, candidate, progress=writing.progress).to_dict()
    verdict = "pass" if all(one["verdict"] == "pass" for one in found.values()) else "fail"
    return {"verdict": verdict, "contract": "exact", **found}


def _options(claims: Sequence[Claim]) -> VerifyOptions:
    """Compared are the outputs that every step keeps, on the shortest of their rows."""
    outputs = [name for name in claims[0].outputs if all(name in one.outputs for one in claims)]
    given: dict[str, Any] = {}
    for claim in claims:  # where several say something, the last word stands
        given |= _said(claim.options)
    return VerifyOptions(
        contract="exact",
        outputs=tuple(outputs),
        max_length=min(claim.max_length for claim in claims),
        **given,
    )


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
