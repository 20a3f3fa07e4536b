"""The values that a template of the model card can name, made of a result's document.

The comment at the top of `card_template.md` lists them; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from normsurgery.report.card_depth import (
    changed_lines,
    contract_limits,
    depth_heading,
    loss_tables,
    sample_table,
)
from normsurgery.report.card_parts import WHERE
from normsurgery.report.card_removal import removal_heading, removal_limits, removal_markdown
from normsurgery.report.checks import checks, forms_of
from normsurgery.report.fold_bn import batch_norm_heading, batch_norm_markdown
from normsurgery.report.folding import fold_heading, fold_markdown
from normsurgery.report.loading import custom_code, loading_blocks
from normsurgery.report.plots import plots_markdown

Document = Mapping[str, Any]
# What centring the stream cannot promise (arXiv 2305.14858; measured in our tests).
CENTRED = (
    "Later fine-tuning moves the weights off the zero-mean manifold: the two ways to load then "
    "drift apart, and an RMSNorm is no longer the LayerNorm it replaced. Choose one way first.",
    "Dropout on the residual stream breaks its zero mean while training; the equality holds in "
    "eval mode or with dropout 0.",
    "Intermediate values (`output_hidden_states`, hooks on blocks) are the source's less their "
    "mean; the model's outputs are what is kept.",
)
NATIVE = (
    "Later fine-tuning trains an RMSNorm model: the stream's mean need not stay zero, and the way "
    "back to the source's class is closed.",
    "Dropout that the source's class has and this one has not is gone.",
    CENTRED[-1],
)
_SECTIONS = (batch_norm_markdown, removal_markdown, fold_markdown)
_PLAIN = ("LayerNorm", "BatchNorm", "x + shift")  # what a card need not name
_COUNTS = ("kept", "changed", "added", "dropped")


def card_values(document: Document, front: Mapping[str, Any]) -> dict[str, Any]:
    """Every name of the template with its value.

    document: surgery.json; where it has no `card` of its own (an older output), its notes stand
    in. front: the keys of the card's front matter, for the licence.
    """
    record = document.get("card") or {"not_guaranteed": document.get("notes") or ()}
    return {
        "heading": _heading(document),
        "command": document["command"],
        "version": document["version"],
        "source": _source(document["source"]),
        "target": _target(document["target"]),
        "receipts": [_receipt(one) for one in document["receipts"]],
        "contracts": list(dict.fromkeys(one["contract"] for one in document["receipts"])),
        "sections": "".join(part(document) for part in _SECTIONS).strip("\n"),
        "changed": list(changed_lines(document)),
        "losses": loss_tables(document),
        "samples": sample_table(document),
        "plots": plots_markdown(document).strip("\n"),
        "verification": _verification(document["verification"]),
        "loading": loading_blocks(document, WHERE),
        "limits": limits(document, record["not_guaranteed"]),
        "licence": {key: _words(front.get(f"license{end}")) for key, end in _LICENCE.items()},
        "source_card": {"results": record.get("results"), "broken": record.get("broken", False)},
        "document": document,
    }


_LICENCE = {"id": "", "name": "_name", "link": "_link"}


def is_on_hub(source: Document) -> bool:
    """A Hub source has a commit; a directory's name means nothing to anyone else."""
    return bool(source.get("revision"))


def norms_of(document: Document, side: str) -> list[str]:
    """Kinds of norms that steps found ("before") or left ("after"), but for the plain ones.

    None is left in a result that opens in the source's class alone: a later step may have left out
    the modeling file that a conversion wrote.
    """
    target, receipts = document["target"], document["receipts"]
    same_class = target.get("architecture") == document["source"].get("architecture")
    if side == "after" and target["form"] == "stock" and same_class and not custom_code(document):
        return []
    kinds = [kind for one in receipts for kind in (one.get("norms") or {}).get(side, {})]
    return [kind for kind in dict.fromkeys(kinds) if kind not in _PLAIN]


def _words(value: Any) -> str | None:
    if value is None:
        return None
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _heading(document: Document) -> str:
    source = document["source"]
    name = source["model"].rsplit("/", 1)[-1] if is_on_hub(source) else source["architecture"]
    kinds = " and ".join(norms_of(document, "after"))
    norms = removal_heading(document) or batch_norm_heading(document) or (kinds and f"with {kinds}")
    changes = [fold_heading(document), depth_heading(document), _healed(document)]
    said = [part for part in (f"{name} {norms}" if norms else name, *changes) if part]
    return ", ".join(said if norms or len(said) > 1 else [name, "rewritten"])


def _healed(document: Document) -> str:
    commands = [document["command"], *(one["surgery"] for one in document.get("steps") or ())]
    return "healed" if "heal" in commands else ""


def _source(source: Document) -> dict[str, Any]:
    """Its id and commit, or neither: a directory's name means nothing to anyone else."""
    known = is_on_hub(source)
    return {
        "model": source["model"] if known else None,
        "revision": source["revision"] if known else None,
        "architecture": source["architecture"],
    }


def _target(target: Document) -> dict[str, Any]:
    others = [engine for engine in target.get("engines") or () if engine != "transformers"]
    return {"form": target["form"], "why": target["why"], "engines": others}


def _receipt(receipt: Document) -> dict[str, Any]:
    counts = {key: receipt["tensors"][key] for key in _COUNTS}
    return {"surgery": receipt["surgery"], "contract": receipt["contract"], **counts}


def _verification(verification: Document) -> list[dict[str, Any]]:
    """A part for each step of a recipe that was judged on its own; one where it is one surgery."""
    return [_judged(one) for one in verification.get("steps") or [verification]]


def _judged(one: Document) -> dict[str, Any]:
    number = one.get("step")
    since = one.get("since_step", number)
    source = f"what step {since - 1} made" if since and since > 1 else None
    part = {
        "step": number,
        "surgery": one.get("surgery"),
        "source": source,
        "with_step": one.get("with_step"),
        "skipped": one["verdict"] == "skipped",
    }
    if part["skipped"] or part["with_step"]:
        return part
    forms = forms_of({k: v for k, v in one.items() if k not in ("step", "surgery")})
    first = next(iter(forms.values()))
    return {
        **part,
        "verdict": one["verdict"],
        "contract": first["contract"],
        "dtype": first.get("dtype"),
        "count": first.get("tokens"),
        "unit": first.get("unit", "tokens"),
        "columns": ["check", *forms, "allowed", ""],
        "rows": [_check(*found) for found in checks(forms)],
    }


def _check(check: str, measured: list[str], allowed: str, passed: bool | None) -> list[str]:
    return [check, *measured, allowed, {True: "pass", False: "fail", None: ""}[passed]]


def limits(document: Document, notes: Sequence[str] = ()) -> list[str]:
    """What is not guaranteed: what the surgery implies, and `notes`."""
    said: Sequence[str] = ()
    if document["target"]["form"] == "native":
        said = NATIVE
    elif any(receipt["surgery"] == "centre" for receipt in document["receipts"]):
        said = CENTRED
    every = dict.fromkeys([*contract_limits(document), *removal_limits(document), *said, *notes])
    return list(every) or ["Nothing is known."]
