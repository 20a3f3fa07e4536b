"""What `remove-ln` adds to its report: the plan, the run, the frozen scales, what was never shown.

Every part is shown where the document has it: a plan, a preview and a result share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.names import folded
from normsurgery.report.numbers import ABSENT, duration, figure, memory_size, percent, short_count
from normsurgery.report.tables import facts, plain_table, section

Document = Mapping[str, Any]
SHOWN = 12  # events or paths that a table has before it is cut
SPECIALS = {"end": "the scale of end-of-text tokens", "first": "the scale of position 0"}
KINDS = ("mlp", "qk", "v", "final", "inner")


def removal_facts(document: Document) -> Iterator[tuple[str, str]]:
    """Lines for the head of the report."""
    if document.get("paths"):
        yield "removes", paths_line(document["paths"])
    if document.get("left"):
        yield "leaves", left_line(document["left"])
    if document.get("schedule"):
        yield "schedule", schedule_line(document["schedule"])
    if document.get("taught_by", "none") != "none":
        yield "teacher", teacher_line(document)


def removal_sections(document: Document) -> list[RenderableType]:
    """Sections for the body of the report; none where the document has none of this."""
    parts: list[RenderableType] = []
    if document.get("events"):
        parts += section("When each norm goes", *_events(document["events"]))
    if document.get("estimate"):
        parts += section("What the training takes", facts(estimate_lines(document["estimate"])))
    if document.get("control"):
        parts += section("Control", facts(control_lines(document["control"])))
    if document.get("statistics"):
        parts += section("Frozen scales", *_statistics(document["statistics"]))
    if document.get("sensitivity"):
        parts += section("One path removed alone", *_sensitivity(document["sensitivity"]))
    if document.get("vocabulary"):
        parts += section("Vocabulary", facts(vocabulary_lines(document["vocabulary"])))
    if document.get("linearity"):
        parts += section("Linearity", Text(linearity_line(document["linearity"])))
    return parts


def paths_line(paths: Sequence[Document]) -> str:
    """`6 mlp, 6 qk, 6 v, 1 final`: how many paths of each kind, in the order in which they go."""
    kinds = [path["kind"] for path in paths]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS if kind in kinds)


def left_line(left: Mapping[str, str]) -> str:
    """Norms that stay, by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(
        f"{', '.join(name for name, _ in folded(names))} ({reason})"
        for reason, names in by_reason.items()
    )


def teacher_line(document: Document) -> str:
    """`the control: KL 0.5 beside cross-entropy 0.5, on 25 % of the rows`."""
    schedule = document["schedule"]
    weights = {
        name: "→".join(dict.fromkeys(map(figure, schedule[name]))) for name in ("kl", "ce")
    }  # fmt: skip
    return (
        f"the {document['taught_by']}: KL {weights['kl']} beside cross-entropy {weights['ce']}, "
        f"on {100 * schedule['kl_rows']:g} % of the rows"
    )


def schedule_line(schedule: Document) -> str:
    """`auto: 1,500 steps, the rate from 6e-4 to 1.2e-5, …`."""
    line = (
        f"{schedule['name']}: {figure(schedule['steps'])} steps, learning rate "
        f"{rate(schedule['learning_rate'])} → {rate(schedule['min_learning_rate'])}"
    )
    if schedule.get("tokens_per_step"):
        line += f", {figure(schedule['tokens_per_step'])} tokens a step"
    return line


def rate(value: float) -> str:
    """A learning rate with every digit that it has: `6e-4`."""
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def event_rows(events: Sequence[Document]) -> list[list[str]]:
    """Step, and what goes there, names of repeated blocks folded."""
    return [[figure(int(event["step"])), event_text(event)] for event in events]


def event_text(event: Document) -> str:
    """What an event does."""
    if event["action"] == "merge":
        return " and ".join(f"{SPECIALS.get(one, one)} merges" for one in event["paths"])
    return ", ".join(name for name, _ in folded(event["paths"]))


def _events(events: Sequence[Document]) -> Iterator[RenderableType]:
    rows = event_rows(events)
    if len(rows) > 2 * SHOWN:
        hidden = len(rows) - 2 * SHOWN
        rows = [*rows[:SHOWN], ["…", f"{hidden} more"], *rows[-SHOWN:]]
    yield plain_table(["step", "removed"], rows, right=(0,))


def estimate_lines(estimate: Document) -> list[tuple[str, str]]:
    """Steps, tokens and memory before anything trains."""
    lines = [
        ("steps", figure(estimate["steps"])),
        ("tokens", f"{short_count(estimate['tokens'])}, {short_count(estimate['row'])} a row"),
        ("operations", f"{estimate['flops']:.1e}"),
        ("memory", f"about {memory_size(estimate['memory_bytes'])} on the device"),
    ]
    if estimate.get("passes") is not None:
        lines.insert(2, ("passes", f"{figure(estimate['passes'])} over the training text"))
    return lines


def control_lines(control: Document) -> list[tuple[str, str]]:
    """Whether the untouched model got the same training, and why."""
    lines = [("trained", f"{'yes' if control['run'] else 'no'}: {control['why']}")]
    history = control.get("loss") or []
    if history:
        lines.append(("loss", f"{figure(history[0][1])} → {figure(history[-1][1])}"))
    return lines


_STATISTICS = {
    "path": "path", "σ̂": "sigma", "position 0": "first", "end of text": "end",
    "removed at": "removed_at", "drift": "drift",
}  # fmt: skip


def statistics_table(statistics: Sequence[Document]) -> tuple[list[str], list[list[str]]]:
    """Columns that hold something, and a row for each path: its scale, those of special tokens."""
    held = {
        column: key
        for column, key in _STATISTICS.items()
        if any(one.get(key) is not None for one in statistics)
    }
    rows = [[_cell(one.get(key)) for key in held.values()] for one in statistics]
    return list(held), rows


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else figure(value)


def _statistics(statistics: Sequence[Document]) -> Iterator[RenderableType]:
    columns, rows = statistics_table(statistics)
    yield plain_table(columns, rows, right=range(1, len(columns)))
    if "drift" in columns:
        yield Text("drift: the scale that the norm would have now, over the frozen one", "dim")


def _sensitivity(sensitivity: Sequence[Document]) -> Iterator[RenderableType]:
    ordered = sorted(sensitivity, key=lambda one: -float(one["added"]))
    rows = [[str(one["path"]), f"{one['loss']:.4f}", f"{one['added']:+.4f}"] for one in ordered]
    yield plain_table(["path", "loss", "added"], rows[:SHOWN], right=(1, 2))
    if len(rows) > SHOWN:
        yield Text(f"the {SHOWN} worst of {len(rows)}; --json shows all", "dim")


def vocabulary_lines(holes: Document) -> list[tuple[str, str]]:
    """How much of the vocabulary the training text never shows."""
    lines = [
        (
            "never shown",
            f"{figure(holes['missing'])} of {figure(holes['size'])} tokens "
            f"({percent(holes['share'])})",
        )
    ]
    if holes["examples"]:
        lines.append(("such as", examples_line(holes)))
    if holes["beyond"]:
        lines.append(("beyond", f"{figure(holes['beyond'])} rows of the table have no token"))
    return lines


def examples_line(holes: Document) -> str:
    """The missing tokens that are shown as examples, quoted."""
    return ", ".join(repr(str(one["text"])) for one in holes["examples"])


def linearity_line(linearity: Document) -> str:
    """Whether the logits are the sum of what each block adds."""
    word = "exactly linear" if linearity["passed"] else "NOT linear"
    return (
        f"{word} in what each block adds to the stream: the logits differ from the sum of "
        f"{figure(linearity['contributions'])} contributions by {figure(linearity['error'])} "
        f"× std, {figure(linearity['allowed'])} is allowed"
    )


LIVE_COLUMNS = ["step", "removed last", "loss", "σ drift", "ETA"]


def live_row(told: Document) -> list[str]:
    """One line of the live table."""
    return [
        f"{figure(told['step'])} of {figure(told['steps'])}",
        _last(str(told.get("last") or ABSENT)),
        f"{told['loss']:.4f}",
        figure(told.get("drift")),
        duration(told.get("seconds_left")),
    ]


def _last(name: str) -> str:
    return f"{SPECIALS[name]} merged" if name in SPECIALS else name


def live_line(told: Document) -> str:
    """The same where there is no terminal."""
    cells = zip(LIVE_COLUMNS, live_row(told), strict=True)
    return " · ".join(f"{name} {value}" for name, value in cells)


def plan_report(document: Document) -> Iterable[RenderableType]:
    """What is told before the first step."""
    return [facts(removal_facts(document)), *removal_sections(document)]
