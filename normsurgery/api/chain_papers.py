"""What several steps say together: one document, one list of limits, one recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from normsurgery.api.asked import pinned
from normsurgery.checkpoint import Checkpoint
from normsurgery.recipe import Recipe, RecipeStep

_WEAKER = ("exact", "fitted", "lossy", "trained")
_OF_A_STEP = ("proof", "verification", "target")  # of every step on its own


def combined(
    documents: Sequence[Mapping[str, Any]],
    passes: Sequence[Sequence[int]],
    why: Mapping[int, str | None],
) -> dict[str, Any]:
    """One document of all steps. Where several say the same thing, the last one's word stands.

    passes: numbers of the steps of each. why: for a step that needs files, the reason.
    """
    found: dict[str, Any] = {}
    for document in documents:
        found |= document
    found |= {
        "command": "run",
        "source": documents[0]["source"],
        "receipts": [one for document in documents for one in document["receipts"]],
        "notes": _notes(documents),
        "steps": [
            {
                **_step(number, document),
                "pass": _pass_of(number, passes),
                "on_files": why.get(number),
            }
            for number, document in enumerate(documents, 1)
        ],
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


def limits(papers: Sequence[Mapping[str, Any]], recorded: Mapping[str, Any]) -> list[str]:
    """What the card says is not guaranteed: every step's, each once."""
    steps = [note for one in papers for note in one["card"]["not_guaranteed"]]
    return list(dict.fromkeys([*steps, *recorded["notes"]]))


def _plots(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every step's pictures, or every pass's; each carried those before it over."""
    return [
        {**one, "title": f"{_whose(number, document)}: {one['title']}"}
        for number, document in enumerate(documents, 1)
        for one in document.get("plots", ())
    ]


def _whose(number: int, document: Mapping[str, Any]) -> str:
    since = document["verification"].get("since_step", number)
    return f"Step {number}" if since == number else f"Steps {since} to {number}"


def _step(number: int, document: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: document[key] for key in _OF_A_STEP if key in document}
    return {
        "step": number,
        "surgery": document["command"],
        "contract": document["verification"]["contract"],
        "source": document["source"],
        **own,
    }


def _pass_of(number: int, passes: Sequence[Sequence[int]]) -> int:
    return next((place for place, one in enumerate(passes, 1) if number in one), 1)


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


def recorded_recipe(
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


def source_card(source: Checkpoint) -> str | None:
    """The source's own model card."""
    card = source.directory / "README.md"
    return card.read_text("utf-8", "surrogateescape") if card.is_file() else None
