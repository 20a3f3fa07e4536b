"""A document as the sections of a page: everything that the terminal and the card say of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from normsurgery.report.checks import forms_of
from normsurgery.report.convert import (
    alternatives_section,
    proof_table,
    surgery_notes,
)
from normsurgery.report.fold_bn import batch_norm_sections
from normsurgery.report.folding import fold_sections
from normsurgery.report.loading import loading_lines
from normsurgery.report.numbers import figure
from normsurgery.report.page.blocks import (
    Block,
    Code,
    Details,
    Heading,
    Section,
    facts,
    line,
    points,
    table,
    words,
)
from normsurgery.report.page.changes import config_table, every_figure
from normsurgery.report.page.shapes import blocks_of
from normsurgery.report.prune import depth_sections
from normsurgery.report.recipe import recipe_sections
from normsurgery.report.removal import event_rows, removal_sections
from normsurgery.report.verification import verification_report

Document = Mapping[str, Any]
_TENSORS = ("kept", "changed", "added", "dropped")
_PROMISES = {
    "exact": "the same function in real arithmetic; what remains is rounding, as each changed "
    "weight was computed in float64 and rounded once to the storage dtype",
    "fitted": "weights were fitted to calibration data in closed form; the function changed, and "
    "how far is measured, not bounded",
    "lossy": "weights went, or changed without a fit; the function changed, and how far is "
    "measured, not bounded",
    "trained": "gradient steps were taken; the function changed, and how far is measured, not "
    "bounded",
}
_NO_DIFF = "surgery.json does not record how config.json changed: an older version wrote it."


def steps_section(document: Document) -> Section:
    """Receipts, step by step, and the difference of the configurations."""
    receipts = document["receipts"]
    rows = [
        (
            str(number), words(receipt["surgery"], "bold"), receipt["contract"],
            *(figure(receipt["tensors"][key]) for key in _TENSORS),
        )
        for number, receipt in enumerate(receipts, 1)
    ]  # fmt: skip
    columns = ("", "surgery", "contract", *_TENSORS)
    blocks: list[Block] = [
        *blocks_of(recipe_sections(dict(document))),
        points(_promises(receipts)),
        Heading("Steps"),
        line("What was done to the tensors, one after the other."),
        table(columns, rows, label="Steps", numbers=range(3, 7)),
        *(one for n, receipt in enumerate(receipts, 1) for one in _receipt(n, receipt)),
        Heading("config.json"),
        *_config(document),
        *blocks_of(alternatives_section(document["target"])),
    ]
    return Section("steps", "What was done", tuple(blocks))


def _promises(receipts: Sequence[Document]) -> list[str]:
    """What each contract that was used means, in plain words."""
    used = dict.fromkeys(receipt["contract"] for receipt in receipts)
    return [f"{contract}: {_PROMISES[contract]}." for contract in used]


def _receipt(number: int, receipt: Document) -> Iterator[Details]:
    """A step's parameters, keys of the configuration, and names of what it touched."""
    inner: list[Block] = []
    if receipt.get("parameters"):
        told = {key: _short(value) for key, value in receipt["parameters"].items()}
        inner.append(facts(told, label="Parameters"))
    if receipt.get("config"):
        inner.append(config_table(receipt["config"], "Configuration"))
    for kind, patterns in (receipt.get("names") or {}).items():
        if patterns:
            inner += [line(f"{kind}:", "bold"), Code("\n".join(patterns), f"Tensors {kind}")]
    if inner:
        yield Details(f"{number}. {receipt['surgery']}: parameters and names", tuple(inner))


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "; ".join(map(_short, value)) if value else "none"
    return figure(value) if isinstance(value, float) else str(value)


def _config(document: Document) -> list[Block]:
    changes = document.get("config_diff")
    if changes is None:
        return [line(_NO_DIFF, "dim")]
    if not changes:
        return [line("Not one key differs from the source's.")]
    return [config_table(changes, "config.json before and after")]


def details_section(document: Document) -> Section | None:
    """What the surgery measured and chose on its way: folds, scores, events, frozen scales."""
    rest = {**document, "losses": None, "samples": None, "explain": True}
    blocks = [
        *blocks_of(batch_norm_sections(rest)),
        *blocks_of(removal_sections(rest)),
        *_removal_whole(document),
        *blocks_of(fold_sections(rest)),
        *_streams_whole(document),
        *blocks_of(depth_sections(rest)),
    ]
    return Section("details", "How it was done", tuple(blocks)) if blocks else None


def _removal_whole(document: Document) -> Iterator[Block]:
    """Tables that a terminal cuts."""
    events = document.get("events") or []
    if events:
        rows = event_rows(events)
        yield Details(
            f"All {len(rows)} events",
            (table(("step", "removed"), rows, label="Events", numbers=(0,)),),
        )
    found = document.get("sensitivity") or []
    if found:
        ordered = sorted(found, key=lambda one: -float(one["added"]))
        rows = [[str(x["path"]), f"{x['loss']:.4f}", f"{x['added']:+.4f}"] for x in ordered]
        columns = ("path", "loss", "added")
        yield Details(
            f"All {len(rows)} paths", (table(columns, rows, label="Paths", numbers=(1, 2)),)
        )


def _streams_whole(document: Document) -> Iterator[Block]:
    """Every block's outliers, of which a terminal shows the worst."""
    blocks = (document.get("kurtosis") or {}).get("blocks") or []
    if blocks:
        keys = [(side, key) for key in ("kurtosis", "largest_over_median") for side in _SIDES]
        rows = [
            (one["block"], *(figure(one[side].get(key)) for side, key in keys)) for one in blocks
        ]
        columns = ("block", "kurtosis", "after", "largest / median", "after")
        made = table(columns, rows, label="Outliers by block", numbers=range(1, 5))
        yield Details(f"All {len(rows)} blocks", (made,))


_SIDES = ("before", "after")


def proof_section(document: Document) -> Section | None:
    """The proof on the twin, of every step that has one."""
    proofs = [("", document["proof"])] if document.get("proof") else []
    proofs += [
        (f"Step {one['step']}, {one['surgery']}", one["proof"])
        for one in document.get("steps") or ()
        if one.get("proof")
    ]
    if not proofs:
        return None
    blocks: list[Block] = [
        line(
            "Before the real weights were touched, the surgery ran in float64 on a tiny random "
            "model of the same class. Its error must stay under what is allowed; a sabotaged "
            "result, the negative control, must not."
        )
    ]
    for name, proof in proofs:
        blocks += [Heading(name)] if name else []
        blocks += blocks_of([proof_table(proof)])
        outputs = ", ".join(proof.get("outputs") or ())
        if outputs:
            blocks.append(line(f"{proof['dtype']}; outputs compared: {outputs}", "dim"))
    return Section("proof", "Proof on a tiny random twin", tuple(blocks))


def verification_section(verification: Document) -> Section:
    """The checks of the saved files, measured beside allowed, and every figure behind them."""
    blocks = list(blocks_of(verification_report(verification)))
    for name, one in _verified(verification):
        whole = every_figure(forms_of(one))
        blocks.append(Details(f"Every figure{name}", (whole,)))
    if verification["verdict"] != "skipped":
        said = "The saved files were run against the source before they got their name."
        blocks.insert(0, line(said))
    return Section("verification", "Verification of the saved files", tuple(blocks))


def _verified(verification: Document) -> Iterable[tuple[str, Document]]:
    if verification["verdict"] == "skipped":
        return []
    steps: Sequence[Document] = verification.get("steps") or ()
    if not steps:
        return [("", verification)]
    return [(f" of step {one['step']}, {one['surgery']}", one) for one in steps]


def losses_section(document: Document) -> Section | None:
    """Losses by domain."""
    blocks = blocks_of(depth_sections({"losses": document.get("losses")}))
    return Section("losses", "Losses", blocks) if blocks else None


def notes_section(document: Document, limits: Sequence[str]) -> Section | None:
    """What the surgery wants known, and what nobody promises."""
    notes, blocks = surgery_notes(document), list[Block]()
    if notes:
        blocks.append(points(notes))
    if limits:
        blocks += [Heading("Not guaranteed"), points(limits)]
    return Section("notes", "Notes and limits", tuple(blocks)) if blocks else None


def loading_section(document: Document, where: str) -> Section:
    """Lines that open the result."""
    code = Code("\n".join(loading_lines(document, where)), "Python that loads the result")
    return Section("load", "Load it", (code,))
