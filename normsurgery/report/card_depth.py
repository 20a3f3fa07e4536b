"""The model card of a result whose function changed: what was done to the depth, what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from normsurgery.report.markdown import literal
from normsurgery.report.prune import (
    LOSS_COLUMNS,
    blocks_line,
    chosen_by,
    domain_line,
    fitted_line,
    loss_rows,
    source_line,
    substitution_lines,
    training_lines,
    won_back_line,
)

Document = Mapping[str, Any]
CHANGED = (
    "This is another function than the source: outputs, and with them every benchmark, differ. "
    "Published figures of the source are not this checkpoint's.",
)
SHALLOWER = (
    "Likelihood on text says little about long generations: reasoning in many steps suffers more "
    "from lost depth than next-token loss and multiple choice show (arXiv 2602.01997).",
)
RENUMBERED = (
    "Blocks are numbered anew: adapters (LoRA), steering vectors and tools that address the "
    "source's blocks by number do not fit.",
)
FITTED = (
    "Fitted to {source} only. Text of another kind (code, other languages, conversations) was not "
    "seen: there the fit may help less, or harm.",
)
TRAINED = (
    "Trained on {source} only; what the source knew beyond that text may have faded, its refusals "
    "and other trained behaviour included.",
)
RECALIBRATED = (
    "The BatchNorms' statistics are those of {source}: on data of another kind they may be wrong.",
)
UNMEASURED = ("No loss was measured: what the change costs is unknown.",)


def depth_heading(document: Document) -> str | None:
    """`9 of 12 blocks`, `15 blocks for 12`, or None where the depth is the source's."""
    blocks = document.get("blocks")
    if not isinstance(blocks, dict):
        return None
    before, after = blocks["before"], blocks["after"]
    if before == after:
        return "blocks rearranged"
    return f"{after} of {before} blocks" if after < before else f"{after} blocks for {before}"


def changed_lines(document: Document) -> Iterator[str]:
    """What was done to blocks and weights, a line of Markdown each; none where nothing was."""
    if isinstance(document.get("blocks"), dict):
        yield f"Blocks: {literal(blocks_line(document['blocks']))}."
    if document.get("method"):
        scores = "; `surgery.json` has every score" if document.get("scores") else ""
        yield f"Chosen by {chosen_by(document)}{scores}."
    if document.get("calibration"):
        yield f"Calibrated on {literal(source_line(document['calibration']))}."
    if document.get("substitution"):
        yield f"Substituted: {_facts(substitution_lines(document['substitution']))}."
    steps = (document.get("healing") or {}).get("steps")
    if steps:
        yield f"Fitted in closed form: {fitted_line(steps)}."
    if document.get("training"):
        yield f"Trained: {_facts(training_lines(document['training']))}."


def _facts(lines: Sequence[tuple[str, str]]) -> str:
    return "; ".join(f"{name} {literal(value)}" for name, value in lines)


def loss_tables(document: Document) -> list[dict[str, Any]]:
    """A table for each text that losses were measured on: text, columns, rows, remark."""
    tables = []
    for domain, entry in (document.get("losses") or {}).items():
        line = won_back_line(entry)
        table = {
            "text": literal(domain_line(domain, entry)),
            "columns": ["model", *LOSS_COLUMNS[1:]],
            "rows": loss_rows(entry),
            "remark": f"{line[0].upper()}{line[1:]}." if line else None,
        }
        tables.append(table)
    return tables


def sample_table(document: Document) -> dict[str, Any] | None:
    """Continuations side by side: columns and rows; None where there are none."""
    samples = document.get("samples") or []
    if not samples:
        return None
    columns = list(samples[0])
    rows = [[literal(str(sample[key])) for key in columns] for sample in samples]
    return {"columns": columns, "rows": rows}


def contract_limits(document: Document) -> list[str]:
    """What is not guaranteed, by the contracts of the receipts."""
    contracts = {receipt["contract"] for receipt in document["receipts"]}
    if contracts <= {"exact"}:
        return list(RENUMBERED) if _renumbered(document) else []
    if document.get("recalibration"):
        source = literal(str(document["recalibration"]["data"]["source"]))
        return [*CHANGED, *(sentence.format(source=source) for sentence in RECALIBRATED)]
    said = list(CHANGED if document.get("paths") else (*CHANGED, *SHALLOWER))
    if _renumbered(document):
        said += RENUMBERED
    losses = document.get("losses") or {}
    calibration = document.get("calibration") or {}
    source = literal(str(calibration.get("source") or next(iter(losses), "its calibration text")))
    for contract, sentences in (("fitted", FITTED), ("trained", TRAINED)):
        if contract in contracts:
            said += [sentence.format(source=source) for sentence in sentences]
    return said if losses else [*said, *UNMEASURED]


def _renumbered(document: Document) -> bool:
    blocks = document.get("blocks")
    if not isinstance(blocks, dict):
        return False
    order = blocks.get("order")
    plain = list(range(blocks["before"]))
    return blocks["after"] != blocks["before"] or (order is not None and list(order) != plain)
