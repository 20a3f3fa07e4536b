"""The model card: our section above the source's own card, their front matter merged.

Our section is `card_template.md`, or a person's own, filled with the values of `card_values`.
Deterministic: no timings, no dates, no local paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from normsurgery.errors import UsageError
from normsurgery.report.card_parts import as_history, at_home, marked, parts_of
from normsurgery.report.card_values import card_values, is_on_hub, norms_of
from normsurgery.report.front_matter import broken, merged, metadata, salvaged, split
from normsurgery.report.loading import custom_code
from normsurgery.report.template import SHIPPED, rendered, shipped_template

__all__ = ["at_home", "card_record", "card_section", "model_card", "renewed_card"]

Document = Mapping[str, Any]
# The Hub knows adapter, merge, quantized and finetune. Full weights in the source's precision,
# derived from one base: "finetune" is the only one whose listings fit, although nothing was
# trained; "quantized" would put the model among smaller-precision copies.
RELATION = "finetune"
RESULTS = "model-index"  # figures of evaluations, in the front matter
_LICENCE = ("license", "license_name", "license_link")


def card_record(document: Document, source_card: str | None, notes: Sequence[str]) -> Document:
    """What surgery.json keeps for the card, so that it can be made again without the source.

    not_guaranteed: the notes. results: what becomes of the source's evaluation results, which
    hold for the same function only. broken: whether its front matter cannot be read.
    """
    contracts = {receipt["contract"] for receipt in document["receipts"]}
    there = RESULTS in metadata(source_card or "")
    kept = "kept" if contracts <= {"exact"} else "left out"
    return {
        "not_guaranteed": list(notes),
        "results": kept if there else None,
        "broken": broken(source_card or ""),
    }


def model_card(
    document: Document,
    source_card: str | None,
    *,
    notes: Sequence[str],
    template: str | None = None,
) -> str:
    """The README.md of a result.

    document: of `convert` or another surgery. source_card: the source's README.md; a section of
    ours in it becomes history. notes: what is not guaranteed, in addition to what the surgery
    implies. Raises UsageError for a template that cannot be rendered.
    """
    front, body = split(source_card or "")
    record = card_record(document, source_card, notes)
    if record["broken"]:
        front = salvaged(source_card or "", _LICENCE)
    head = merged(
        front,
        _metadata(document),
        without=[RESULTS] if record["results"] == "left out" else [],
        drop_tags=_outdated(document, body),
    )
    section = card_section({**document, "card": record}, head, template or shipped_template())
    card = f"{head}\n{marked(section)}"
    return card if not body.strip() else card + "\n" + as_history(body.lstrip("\n"))


def renewed_card(document: Document, card: str | None, template: str, name: str = SHIPPED) -> str:
    """The README.md of an output with our section made anew, and everything else as it is.

    card: what is there now, in which a person may have changed the front matter and whatever
    stands above or below our section; None where there is nothing. name: how errors call the
    template. Raises UsageError for a template that cannot be rendered, and for a card of which
    nobody can tell where our section ends.
    """
    front, body = split(card or "")
    around = parts_of(body)
    head = merged(front, _metadata(document), yielding=True)
    section = marked(card_section(document, head, template, name))
    if around.ours is None:
        return f"{head}\n{section}" + (f"\n{body.lstrip(chr(10))}" if body.strip() else "")
    before = around.before.lstrip("\n")
    return f"{head}\n{before}{section}{around.after.removeprefix(chr(10))}"


def card_section(document: Document, head: str, template: str, name: str = SHIPPED) -> str:
    """Our section: the template filled in. head: the front matter, for the licence."""
    return rendered(template, card_values(document, metadata(head)), name)


def _metadata(document: Document) -> dict[str, Any]:
    """Front matter that is ours to say; `tags` and `library_name` give way to the source's."""
    norms = [kind.lower() for kind in norms_of(document, "after")]
    custom = ["custom_code"] if custom_code(document) else []
    found: dict[str, Any] = {}
    if is_on_hub(document["source"]):
        found = {"base_model": [document["source"]["model"]], "base_model_relation": RELATION}
    return {**found, "library_name": "transformers", "tags": ["normsurgery", *norms, *custom]}


def _outdated(document: Document, body: str) -> list[str]:
    """Tags that an earlier section of ours brought and that may not hold any more."""
    try:
        ours = parts_of(body).ours
    except UsageError:
        ours = None
    if ours is None:
        return []
    return ["custom_code", *(kind.lower() for kind in norms_of(document, "before"))]
