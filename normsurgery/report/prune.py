"""What a surgery on depth adds to its report: blocks, scores, fits, training, losses, samples.

Every part is shown where the document has it, so that `prune`, `arrange` and `heal` share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.numbers import ABSENT, figure, short_count
from normsurgery.report.tables import facts, plain_table, section

BEST = 5  # windows that are shown where not all were asked for
_QUANTILES = ("mean", "median", "p999", "max")
Document = Mapping[str, Any]


def depth_facts(document: Document) -> Iterator[tuple[str, str]]:
    """Lines for the head of the report."""
    blocks = document.get("blocks")
    if isinstance(blocks, dict):
        yield "blocks", blocks_line(blocks)
    if document.get("method"):
        yield "chosen by", chosen_by(document)
    if document.get("calibration"):
        yield "calibrated on", source_line(document["calibration"])


def chosen_by(document: Document) -> str:
    """The score that chose the blocks, or that a person did."""
    method = str(document["method"])
    return "the request, by number" if method == "named" else method


def depth_sections(document: Document) -> list[RenderableType]:
    """Sections for the body of the report; none where the document has none of this."""
    parts: list[RenderableType] = []
    if document.get("scores"):
        parts += section("Scores (lower is better to drop)", *_scores(document))
    if document.get("substitution"):
        parts += section("Substitution", facts(substitution_lines(document["substitution"])))
    steps = (document.get("healing") or {}).get("steps")
    if steps:
        parts += section("Fits", _fits(steps), Text(fitted_line(steps)))
    if document.get("training"):
        parts += section("Training", facts(training_lines(document["training"])))
    for domain, entry in (document.get("losses") or {}).items():
        parts += section(f"Loss on {domain_line(domain, entry)}, nats a token", *_losses(entry))
    if document.get("samples"):
        parts += section("Samples (greedy)", *_samples(document["samples"]))
    return parts


def blocks_line(blocks: Document) -> str:
    """`12 → 9 of model.layers, without 5-7`, with the order where it is not the plain one."""
    line = f"{blocks['before']} → {blocks['after']}"
    if blocks.get("stack"):
        line += f" of {blocks['stack']}"
    dropped, order = sorted(blocks.get("dropped") or ()), blocks.get("order")
    if dropped:
        line += f", without {ranges(dropped)}"
    plain = [i for i in range(blocks["before"]) if i not in dropped]
    if order is not None and list(order) != plain:
        line += f", in the order {ranges(order)}"
    return line


def ranges(blocks: Iterable[int | str]) -> str:
    """Blocks in order, rising runs as spans: `0-7, zero, 8-11`."""
    spans: list[list[int | str]] = []
    for block in blocks:
        last = spans[-1][-1] if spans else None
        if isinstance(block, int) and isinstance(last, int) and block == last + 1:
            spans[-1].append(block)
        else:
            spans.append([block])
    return ", ".join(str(s[0]) if len(s) == 1 else f"{s[0]}-{s[-1]}" for s in spans)


def source_line(about: Document) -> str:
    """`sample:prose, 50,048 tokens in 391 rows`."""
    return f"{about['source']}, {figure(about['tokens'])} tokens in {figure(about['rows'])} rows"


def domain_line(domain: str, entry: Document) -> str:
    """`sample:drama, 8,192 tokens in 64 rows`, with the domain's name where that is another."""
    about = entry.get("source")
    if not about:
        return domain
    line = source_line(about)
    return line if about["source"] == domain else f"{domain}: {line}"


def score_methods(scores: Sequence[Document]) -> list[str]:
    """The names of the figures that the windows have, in the order in which they come."""
    names = [
        name
        for row in scores
        for name, value in row.items()
        if isinstance(value, int | float) and name != "round"
    ]
    return list(dict.fromkeys(names))


def _scores(document: Document) -> Iterator[RenderableType]:
    """The best windows of the method that chose, or all where the document says so."""
    scores, methods = document["scores"], score_methods(document["scores"])
    chosen = document.get("method")
    shown = list(scores)
    if not document.get("explain") and chosen in methods:
        worst = float("inf")
        shown = sorted(scores, key=lambda row: worst if row.get(chosen) is None else row[chosen])
        shown = shown[:BEST]
    best = {m: min((r[m] for r in scores if r.get(m) is not None), default=None) for m in methods}
    dropped = (document.get("blocks") or {}).get("dropped") or ()
    rows = []
    for row in shown:
        cells: list[str | Text] = [ranges(row["blocks"])]
        for method in methods:
            value = row.get(method)
            style = "bold" if value is not None and value == best[method] else ""
            cells.append(Text(figure(value), style))
        rows.append([*cells, "← dropped" if set(row["blocks"]) <= set(dropped) else ""])
    columns = ["blocks", *methods, ""]
    yield plain_table(columns, rows, right=range(1, len(methods) + 1))
    if len(shown) < len(scores):
        yield Text(f"the best {len(shown)} of {len(scores)}; --explain shows all", "dim")


def substitution_lines(substitution: Document) -> list[tuple[str, str]]:
    """What stands for the blocks that went, and its error on text that it was not fitted to."""
    lines = [("kind", _named(substitution, "name", "objective"))]
    seams = substitution.get("seams", substitution.get("seam"))
    if seams is not None:
        listed = seams if isinstance(seams, list | tuple) else [seams]
        lines.append(
            ("seam", ", ".join(f"block {s}" if isinstance(s, int) else str(s) for s in listed))
        )
    if substitution.get("ridge") is not None:
        lines.append(("ridge", figure(substitution["ridge"])))
    error = substitution.get("held_out_error")
    if error:
        lines.append(("held-out error", f"{figure(error['before'])} → {figure(error['after'])}"))
    return lines


def _named(values: Document, *keys: str) -> str:
    return ", ".join(str(values[key]) for key in keys if values.get(key) is not None)


def _fits(steps: Sequence[Document]) -> RenderableType:
    """A line for each regression; a writer that none could set has the reason."""
    rows = [
        [
            str(step["block"]),
            str(step["writer"]),
            figure(step.get("ridge")),
            figure(step.get("before")),
            figure(step.get("after")),
            _outcome(step),
        ]
        for step in steps
    ]
    columns = ["block", "writer", "ridge", "error before", "after", ""]
    return plain_table(columns, rows, right=(0, 2, 3, 4))


def _outcome(step: Document) -> str:
    if "skipped" in step:
        return f"left as it was: {step['skipped']}"
    return "kept" if step["accepted"] else "left as it was"


def fitted_line(steps: Sequence[Document]) -> str:
    """How many of the refits lowered the error on held-out calibration text."""
    tried = [step for step in steps if "skipped" not in step]
    accepted = sum(bool(step["accepted"]) for step in tried)
    line = f"{accepted} of {len(tried)} refits lowered the held-out error and were kept"
    skipped = len(steps) - len(tried)
    writers = "writer" if skipped == 1 else "writers"
    return f"{line}; {skipped} {writers} cannot be refitted" if skipped else line


def training_lines(training: Document) -> list[tuple[str, str]]:
    """What was trained, for how long, and to which loss."""
    lines = [("method", str(training["method"]))]
    if training.get("trainable_parameters") is not None:
        lines.append(("trained", f"{short_count(training['trainable_parameters'])} parameters"))
    tokens = training.get("tokens")
    over = "" if tokens is None else f" over {figure(tokens)} tokens"
    lines.append(("steps", f"{figure(training['steps'])}{over}"))
    if training.get("retries"):
        lines.append(("retries", figure(training["retries"])))
    history = training.get("loss") or []
    if history:
        lines.append(("loss", f"{figure(history[0][1])} → {figure(history[-1][1])}"))
    final = training.get("final") or {}
    if final:
        lines.append(("at the end", ", ".join(f"{k} {figure(v)}" for k, v in final.items())))
    return lines


def loss_rows(entry: Document) -> list[list[str]]:
    """A row for each model that was measured in a domain: its name and its figures."""
    return [
        [name, *(_nats(values.get(key)) for key in _QUANTILES), f"{values['perplexity']:,.2f}"]
        for name, values in entry.items()
        if isinstance(values, dict) and "mean" in values
    ]


LOSS_COLUMNS = ["", "mean", "median", "p99.9", "max", "perplexity"]


def _nats(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4f}"


def won_back(entry: Document) -> float | None:
    """The share of the mean loss that dropping cost which the result has not; None if unknown.

    Negative where the result is worse than the plain drop.
    """
    try:
        original, drop, result = (entry[n]["mean"] for n in ("original", "drop", "result"))
    except (KeyError, TypeError):
        return None
    return None if not drop > original else float((drop - result) / (drop - original))


def won_back_line(entry: Document) -> str | None:
    """A sentence on `won_back`; None where there is nothing to say."""
    share = won_back(entry)
    if share is None:
        return None
    if _nats(entry["drop"]["mean"]) == _nats(entry["result"]["mean"]):
        return None  # a plain drop, measured twice: they differ by rounding
    if share < 0:
        return "worse than dropping the blocks and doing nothing else"
    return f"{100 * share:.1f} % of the loss that dropping the blocks cost is won back"


def _losses(entry: Document) -> Iterator[RenderableType]:
    yield plain_table(LOSS_COLUMNS, loss_rows(entry), right=range(1, 6))
    line = won_back_line(entry)
    if line:
        yield Text(line)


def _samples(samples: Sequence[Document]) -> Iterator[RenderableType]:
    for number, sample in enumerate(samples):
        if number:
            yield Text()
        yield facts((name, " ".join(str(text).split())) for name, text in sample.items())
