"""Several surgeries in a row: what each makes is the next one's source, the last one's the output.

Steps write into a hidden directory beside the output. The last result gets papers that tell of all
steps, and moves into place in one rename.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from normsurgery.api.asked import pinned
from normsurgery.api.writing import config_diff, write_papers
from normsurgery.checkpoint import Checkpoint, Staging, check_destination, open_checkpoint
from normsurgery.errors import SurgeryError, UsageError, VerificationError
from normsurgery.recipe import Recipe, RecipeStep

Call = Callable[..., dict[str, Any]]
"""Runs a step: `call(step, source, output, **settings)` → its document."""

_WEAKER = ("exact", "fitted", "lossy", "trained")
_OF_A_STEP = ("proof", "verification", "target")  # of every step on its own


def run_chain(recipe: Recipe, steps: Sequence[RecipeStep], call: Call) -> dict[str, Any]:
    """Run two steps or more; the document of all of them.

    Raises UsageError in several processes, which cannot share the hidden directory; what a step
    raises, with its number before it. Nothing is then left under the output's name.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "a recipe of several steps runs in one process", "split it, one step in each recipe"
        )
    output = Path(recipe.output)
    overwrite = bool(recipe.settings.get("overwrite", False))
    check_destination(output, overwrite=overwrite, source=None)  # before a download
    source = open_checkpoint(recipe.source, allow_pickle=recipe.allows_pickle)
    place: dict[str, Any] = {"overwrite": overwrite, "source": source.directory, "needed_bytes": 0}
    with Staging(output, **place) as scratch, Staging(output, **place) as staging:
        made, documents, papers = _each(recipe, steps, call, scratch.path)
        for entry in made.iterdir():
            entry.rename(staging.path / entry.name)
        recorded = _combined(papers)
        recorded["recipe"] = _recorded(source, recipe, steps, papers)
        recorded["config_diff"] = config_diff(source, staging.path)
        write_papers(staging.path, recorded, _card(source), notes=_limits(papers, recorded))
        staging.publish()
    return {**_combined(documents), "output": str(output)}


def _each(
    recipe: Recipe, steps: Sequence[RecipeStep], call: Call, scratch: Path
) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    """Run the steps; the last result, and every step's document and papers."""
    documents, papers = [], []
    source: str | Path = recipe.source
    for number, step in enumerate(steps, 1):
        target = scratch / f"step-{number}"
        try:
            documents.append(call(step, source, target, overwrite=False))
        except SurgeryError as error:
            raise _named(error, number, step, target, Path(recipe.output)) from error
        papers.append(json.loads((target / "surgery.json").read_text(encoding="utf-8")))
        if number > 1:  # nothing reads it again, and a model is large
            shutil.rmtree(source)
        source = target
    return target, documents, papers


def _named(
    error: SurgeryError, number: int, step: RecipeStep, target: Path, output: Path
) -> SurgeryError:
    """The same error, of this step; a result that was kept for study moves beside the output."""
    hint = error.hint
    failed = target.with_name(f"{target.name}.failed")
    if isinstance(error, VerificationError) and failed.is_dir():
        kept = output.with_name(f"{output.name}.failed")
        with suppress(OSError):  # one of an earlier run may be there
            failed.rename(kept)
            hint = f"the result of step {number} is kept in {kept}"
    return type(error)(f"step {number} ({step.surgery}): {error.message}", hint)


def _combined(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One document of all steps. Where several say the same thing, the last one's word stands."""
    found: dict[str, Any] = {}
    for document in documents:
        found |= document
    found |= {
        "command": "run",
        "source": documents[0]["source"],
        "receipts": [one for document in documents for one in document["receipts"]],
        "notes": _notes(documents),
        "steps": [_step(number, document) for number, document in enumerate(documents, 1)],
        "verification": _verification(documents),
    }
    if any("plots" in document for document in documents):
        found["plots"] = _plots(documents)
    if "files" in found:
        found["files"] = {**found["files"], "source": documents[0]["files"]["source"]}
    if "seconds" in found:
        found["seconds"] = round(sum(document["seconds"] for document in documents), 3)
    found.pop("proof", None)  # each step has its own
    return found


def _notes(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each note once, and what `original` means in losses that a later step measured."""
    notes = dict.fromkeys(note for one in documents for note in one.get("notes", ()))
    numbers = [number for number, one in enumerate(documents, 1) if one.get("losses")]
    if numbers and numbers[-1] > 1 and documents[numbers[-1] - 1]["command"] != "heal":
        last = numbers[-1]  # heal compares with its teacher
        notes[f"in the losses, which are of step {last}, original is what step {last - 1} made"] = (
            None
        )
    return list(notes)


def _limits(papers: Sequence[Mapping[str, Any]], recorded: Mapping[str, Any]) -> list[str]:
    """What the card says is not guaranteed: every step's, each once."""
    steps = [note for one in papers for note in one["card"]["not_guaranteed"]]
    return list(dict.fromkeys([*steps, *recorded["notes"]]))


def _plots(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every step's pictures; each step carried those before it over."""
    return [
        {**one, "title": f"Step {number}: {one['title']}"}
        for number, document in enumerate(documents, 1)
        for one in document.get("plots", ())
    ]


def _step(number: int, document: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: document[key] for key in _OF_A_STEP if key in document}
    return {
        "step": number,
        "surgery": document["command"],
        "contract": document["verification"]["contract"],
        "source": document["source"],
        **own,
    }


def _verification(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every step is held against its own source; the whole has the weakest contract of them."""
    ours = [document["verification"] for document in documents]
    verdicts = [one["verdict"] for one in ours]
    verdict = next((word for word in ("fail", "skipped") if word in verdicts), "pass")
    contract = max((one["contract"] for one in ours), key=_WEAKER.index)
    steps = [
        {"step": number, "surgery": document["command"], **document["verification"]}
        for number, document in enumerate(documents, 1)
    ]
    return {"verdict": verdict, "contract": contract, "steps": steps}


def _recorded(
    source: Checkpoint,
    recipe: Recipe,
    steps: Sequence[RecipeStep],
    papers: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The resolved recipe of all steps, from what each of them recorded."""
    found = dict(papers[0]["recipe"])
    found["source"] = pinned(source)
    resolved = []
    for step, paper in zip(steps, papers, strict=True):
        options = dict(paper["recipe"]["steps"][0])
        if "teacher" in options and "teacher" not in step.options:
            options["teacher"] = None  # the source, wherever it lies then
        resolved.append(options)
        if isinstance(paper["recipe"]["verify"], dict):
            found["verify"] = paper["recipe"]["verify"]
    return {**found, "steps": resolved}


def _card(source: Checkpoint) -> str | None:
    """The source's own model card."""
    card = source.directory / "README.md"
    return card.read_text("utf-8", "surrogateescape") if card.is_file() else None
