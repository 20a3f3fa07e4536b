"""The model card of a model without norms: what went, how, what it cost, what nobody trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from normsurgery.report.markdown import literal, table
from normsurgery.report.removal import (
    examples_line,
    left_line,
    linearity_line,
    paths_line,
    schedule_line,
    statistics_table,
    teacher_line,
)

Document = Mapping[str, Any]
STOCK = (
    "The class is the source's own, and its norms are still called: each has an ε (a power of "
    "four) beside which every variance vanishes, and a γ of √ε, so that it multiplies by one; the "
    "division by the frozen scale stands in the linears that read it. It loads as the source does, "
    "and an ε of another size would make another model of it."
)
GRAFT = (
    "No norm module and no norm parameter is left. The stock class would normalize again, so the "
    "checkpoint has a model type of its own, which the stock class refuses; it loads with "
    "`trust_remote_code=True`, by the modeling file beside the weights."
)
PARTIAL = (
    "Some norms are gone and some are left. The checkpoint has a model type of its own, which the "
    "stock class refuses; it loads with `trust_remote_code=True`, by the modeling file beside the "
    "weights."
)
HOLES = "Tokens that the training text never showed are where the loss is worst (see above)."
SCALE = (
    "Nothing bounds the scale of the stream any more: inputs far from the training text may give "
    "very large losses, which a norm would have kept in check."
)
_EXPLAINED = {"stock": STOCK, "graft": GRAFT, "partial": PARTIAL}


def removal_heading(document: Document) -> str | None:
    """`without norms`, `without most norms`; None where none was removed."""
    if document.get("command") != "remove-ln" and not document.get("paths"):
        return None
    return "with some norms removed" if document.get("export") == "partial" else "without norms"


def removal_markdown(document: Document) -> str:
    """The section on what was removed; empty for every other surgery."""
    if not document.get("paths"):
        return ""
    lines = [*_done(document), *_holes(document), *_statistics(document), *_command(document)]
    return "\n\n## Which norms went, and how\n\n" + "\n".join(lines)


def removal_limits(document: Document) -> list[str]:
    """What is not guaranteed."""
    if not document.get("paths"):
        return []
    holes = (document.get("vocabulary") or {}).get("missing")
    return [SCALE, HOLES] if holes else [SCALE]


def _done(document: Document) -> Iterator[str]:
    yield _EXPLAINED[document["export"]]
    yield ""
    yield f"* Removed: {literal(paths_line(document['paths']))}."
    if document.get("left"):
        yield f"* Left as they were: {literal(left_line(document['left']))}."
    if document.get("training"):
        yield f"* Schedule {literal(schedule_line(document['schedule']))}."
        if document.get("taught_by", "none") != "none":
            yield f"* Teacher: {literal(teacher_line(document))}."
        yield f"* Events: {len(document['events'])}; `surgery.json` has every one with its step."
    else:
        yield "* All at once, at scales measured on text; nothing was trained."
    control = document.get("control")
    if control and document.get("training"):
        word = "trained" if control["run"] else "not trained"
        yield f"* Control (the untouched model with the same training): {word}, {control['why']}."
    if document.get("linearity"):
        yield f"* The model is {literal(linearity_line(document['linearity']))}."


def _holes(document: Document) -> Iterator[str]:
    holes = document.get("vocabulary")
    if holes and holes["missing"]:
        such = f", such as {literal(examples_line(holes))}" if holes["examples"] else ""
        yield (
            f"* {holes['missing']:,} of {holes['size']:,} tokens of the vocabulary "
            f"({100 * holes['share']:.1f} %) never occurred in the training text{such}."
        )


def _statistics(document: Document) -> Iterator[str]:
    statistics = document.get("statistics") or []
    if not statistics:
        return
    yield ""
    yield "Frozen scales, and those of the special tokens before they merged:"
    yield ""
    columns, cells = statistics_table(statistics)
    rows = [[literal(cell) for cell in one] for one in cells]
    yield from table(columns, rows, "Every path")


def _command(document: Document) -> Iterator[str]:
    if document.get("reproduce"):
        yield ""
        yield "Made with:"
        yield ""
        yield "```"
        yield str(document["reproduce"]).replace("`", "'")
        yield "```"
