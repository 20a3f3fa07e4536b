"""The model card: our section above the source's own card, their front matter merged.

Deterministic: no timings, no dates, no local paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from normsurgery.report.card_depth import contract_limits, depth_heading, depth_markdown
from normsurgery.report.card_removal import (
    removal_heading,
    removal_limits,
    removal_markdown,
)
from normsurgery.report.checks import checks, forms_of
from normsurgery.report.fold_bn import batch_norm_heading, batch_norm_markdown
from normsurgery.report.folding import fold_heading, fold_markdown
from normsurgery.report.front_matter import merged, split
from normsurgery.report.loading import custom_code, loading_lines
from normsurgery.report.markdown import cell, row
from normsurgery.report.plots import plots_markdown

CONTRACTS = {
    "exact": "**exact**: the same function in real arithmetic. What remains is rounding: each "
    "changed weight was computed in float64 and rounded once to the storage dtype.",
    "fitted": "**fitted**: weights were fitted to calibration data in closed form; the function "
    "changed, and how far is measured, not bounded.",
    "lossy": "**lossy**: weights went, or changed without a fit; the function changed, and how far "
    "is measured, not bounded.",
    "trained": "**trained**: gradient steps were taken; the function changed, and how far is "
    "measured, not bounded.",
}
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
_VERBS = {"heal": "healed"}
WHERE = "path/to/this/checkpoint"  # or its Hub id, which nobody knows before `push`
# The Hub knows adapter, merge, quantized and finetune. Full weights in the source's precision,
# derived from one base: "finetune" is the only one whose listings fit, although nothing was
# trained; "quantized" would put the model among smaller-precision copies.
RELATION = "finetune"


# What a card says between contracts and verification, by kind of surgery.
_SECTIONS = (
    batch_norm_markdown, removal_markdown, fold_markdown, depth_markdown, plots_markdown
)  # fmt: skip


def model_card(
    document: Mapping[str, Any], source_card: str | None, *, notes: Sequence[str]
) -> str:
    """The README.md of a result.

    document: of `convert` or another surgery. source_card: the
    source's README.md. notes: what is not guaranteed, in addition to what the surgery implies.
    """
    front, body = split(source_card or "")
    template = files("normsurgery.report").joinpath("card_template.md").read_text(encoding="utf-8")
    section = Template(template).substitute(
        heading=_heading(document),
        what=_what(document),
        receipts="\n".join(_receipt_rows(document["receipts"])),
        contracts="\n".join(_contracts(document["receipts"])),
        depth="".join(part(document) for part in _SECTIONS),
        verification=_verification(document["verification"]),
        loading="\n".join(loading_lines(document, WHERE)),
        limits="\n".join(f"* {cell(limit)}" for limit in _limits(document, notes)),
    )
    card = merged(front, _metadata(document)) + "\n" + section
    return card if not body.strip() else card + "\n" + body.lstrip("\n")


def at_home(card: str, repository: str) -> str:
    """The card with its Hub id in the lines that load it.

    Only the first block of code that holds the placeholder is ours; a card further down is the
    source's, and speaks of another model.
    """
    start = card.find(repr(WHERE))
    end = card.find("```", start)
    if start < 0 or end < 0:
        return card
    return card[:start] + card[start:end].replace(repr(WHERE), repr(repository)) + card[end:]


def _metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    """Front matter that is ours to say; `tags` and `library_name` give way to the source's."""
    norms = [kind.lower() for kind in _norms_after(document["receipts"])]
    custom = ["custom_code"] if custom_code(document) else []
    found: dict[str, Any] = {}
    if _is_on_hub(document["source"]):
        found = {"base_model": [document["source"]["model"]], "base_model_relation": RELATION}
    return {**found, "library_name": "transformers", "tags": ["normsurgery", *norms, *custom]}


def _is_on_hub(source: Mapping[str, Any]) -> bool:
    """A Hub source has a commit; a directory's name means nothing to anyone else."""
    return bool(source.get("revision"))


_PLAIN = ("LayerNorm", "BatchNorm", "x + shift")  # what a card need not name


def _norms_after(receipts: Sequence[Mapping[str, Any]]) -> list[str]:
    kinds = [kind for receipt in receipts for kind in (receipt.get("norms") or {}).get("after", {})]
    return [kind for kind in dict.fromkeys(kinds) if kind not in _PLAIN]


def _heading(document: Mapping[str, Any]) -> str:
    source = document["source"]
    name = source["model"].rsplit("/", 1)[-1] if _is_on_hub(source) else source["architecture"]
    kinds = " and ".join(_norms_after(document["receipts"]))
    without = removal_heading(document) or batch_norm_heading(document)
    if without:
        return f"{name} {without}"
    if fold_heading(document):
        return f"{name}, {fold_heading(document)}"
    changes = [part for part in (kinds and f"with {kinds}", depth_heading(document)) if part]
    if changes:
        return f"{name} {', '.join(changes)}" if kinds else f"{name}, {', '.join(changes)}"
    return f"{name}, {_VERBS.get(document['command'], 'rewritten')}"


def _what(document: Mapping[str, Any]) -> str:
    source, target = document["source"], document["target"]
    if _is_on_hub(source):
        model, commit = source["model"], source["revision"]
        name = f"[{model}](https://huggingface.co/{model}) at commit `{commit}`"
    else:
        name = f"a local `{source['architecture']}` checkpoint"
    made = f"Made from {name} by normsurgery {document['version']}."
    said = f"{made} Target: **{target['form']}**: {cell(target['why'])}."
    return f"{said} {_engines(target)}" if target["form"] == "native" else said


def _engines(target: Mapping[str, Any]) -> str:
    """What the configuration suits; only transformers has run it."""
    others = [engine for engine in target["engines"] if engine != "transformers"]
    if not others:
        return "Engines expected to run it beside transformers: none is known."
    return (
        f"Engines expected to run it, from its configuration alone and not tested: "
        f"{', '.join(others)}."
    )


def _receipt_rows(receipts: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for receipt in receipts:
        counts = [receipt["tensors"][key] for key in ("kept", "changed", "added", "dropped")]
        rows.append(row([receipt["surgery"], receipt["contract"], *map(str, counts)]))
    return rows


def _contracts(receipts: Sequence[Mapping[str, Any]]) -> list[str]:
    used = dict.fromkeys(receipt["contract"] for receipt in receipts)
    said = [f"* {CONTRACTS[contract]}" for contract in used]
    if "trained" not in used:
        said.append("* No gradient step was taken.")
    return said


def _verification(verification: Mapping[str, Any]) -> str:
    if verification["verdict"] == "skipped":
        return "**Not verified**: the person who made this checkpoint asked for no verification."
    if "steps" in verification:
        return "\n\n".join(_step_verification(one) for one in verification["steps"])
    forms = forms_of(verification)
    one = next(iter(forms.values()))
    unit = one.get("unit", "tokens")
    tokens = f" over {one['tokens']:,} {unit}" if one.get("tokens") else ""
    how = f"Measured on the saved files against the source, in {one.get('dtype')}{tokens}. "
    lines = [
        f"{how if one.get('dtype') else 'The saved files were loaded. '}"
        f"Verdict: **{verification['verdict']}**{_judged(one['contract'])}.",
        "",
        row(["check", *forms, "allowed", ""]),
        row(["---"] * (len(forms) + 3)),
    ]
    for check, measured, allowed, passed in checks(forms):
        word = {True: "pass", False: "fail", None: ""}[passed]
        lines.append(row([check, *measured, allowed, word]))
    return "\n".join(lines)


def _step_verification(one: Mapping[str, Any]) -> str:
    """A step of a recipe; its source is what the step before it made."""
    number = one["step"]
    given = "the source" if number == 1 else f"what step {number - 1} made"
    figures = {key: value for key, value in one.items() if key not in ("step", "surgery")}
    heading = f"### Step {number}: `{one['surgery']}`, held against {given}"
    said = _verification(figures).replace("against the source", f"against {given}")
    return f"{heading}\n\n{said}"


def _judged(contract: str) -> str:
    """What a verdict is about, where it is not about equality."""
    if contract == "exact":
        return ""
    return f" (a {contract} result is held to loading cleanly and staying finite, not to equality)"


def _limits(document: Mapping[str, Any], notes: Sequence[str]) -> list[str]:
    said: Sequence[str] = ()
    if document["target"]["form"] == "native":
        said = NATIVE
    elif any(receipt["surgery"] == "centre" for receipt in document["receipts"]):
        said = CENTRED
    limits = dict.fromkeys([*contract_limits(document), *removal_limits(document), *said, *notes])
    return list(limits) or ["Nothing is known."]
