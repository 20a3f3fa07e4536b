"""The whole page of a result: its document, and what was found beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from normsurgery.report.card_values import limits
from normsurgery.report.convert import surgery_facts, surgery_notes
from normsurgery.report.numbers import file_size, short_count
from normsurgery.report.page.blocks import (
    Block,
    Code,
    Figure,
    Heading,
    Section,
    Span,
    Words,
    facts,
    line,
    points,
    table,
    words,
)
from normsurgery.report.page.content import (
    details_section,
    loading_section,
    losses_section,
    notes_section,
    proof_section,
    steps_section,
    verification_section,
)
from normsurgery.report.page.marks import sameness, samples_of
from normsurgery.report.page.render import Alert, Head, render_page
from normsurgery.report.verification import source_name

Document = Mapping[str, Any]
MATCH, CHANGED, MISSING, NOT_READ = "matches", "changed", "missing", "not looked at"
_STYLES = {MATCH: "pass", CHANGED: "fail", MISSING: "fail", NOT_READ: "dim"}
_VERDICTS = {
    "pass": "verified: pass",
    "fail": "verification failed",
    "skipped": "not verified",
}


@dataclass(frozen=True)
class FileState:
    """A file that surgery.json has a hash of. now: MATCH, CHANGED, MISSING or NOT_READ."""

    name: str
    sha256: str
    now: str


@dataclass(frozen=True)
class Samples:
    """rows: [{"prompt", MODEL: how it goes on}]. said: where they come from, or why there are none.

    tops: pictures in place of text: [{"sample", MODEL: its top classes}].
    """

    rows: Sequence[Mapping[str, str]] = ()
    said: str = ""
    tops: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Found:
    """What was seen beside the document.

    name: the directory's. size: {"parameters", "bytes"} of the weights that lie there, if they can
    be read. remark: on pictures that could not be drawn.
    """

    name: str
    files: Sequence[FileState]
    source_files: Sequence[FileState]
    stray: Sequence[str] = ()
    size: Mapping[str, int] | None = None
    samples: Samples = field(default_factory=Samples)
    figures: Sequence[Figure] = ()
    remark: str = ""

    @property
    def gone(self) -> list[FileState]:
        """Files that are no longer what surgery.json describes."""
        return [one for one in (*self.files, *self.source_files) if one.now in (CHANGED, MISSING)]


def report_page(document: Document, found: Found) -> str:
    """The HTML of the page. document: a result's surgery.json."""
    sections = [
        steps_section(document),
        details_section(document),
        proof_section(document),
        verification_section(document["verification"]),
        losses_section(document),
        _pictures(found),
        _samples(found.samples),
        notes_section(document, _limits(document)),
        loading_section(document, found.name),
        _receipts(document, found),
    ]
    return render_page(_head(document, found), [one for one in sections if one])


def _limits(document: Document) -> list[str]:
    """What the card says is not guaranteed, but for what stands among the notes already."""
    recorded = (document.get("card") or {}).get("not_guaranteed") or ()
    notes = surgery_notes(document)
    return [one for one in limits(document, recorded) if one not in notes]


def _head(document: Document, found: Found) -> Head:
    verification = document["verification"]
    verdict = str(verification["verdict"])
    return Head(
        title=found.name,
        version=str(document.get("version", "")),
        lead=_lead(document),
        link=source_link(document["source"]),
        badges=(
            (f"contract: {verification['contract']}", ""),
            (_VERDICTS.get(verdict, verdict), verdict),
        ),
        alerts=tuple(_alerts(verification, found)),
        tiles=tuple(_tiles(document, found)),
        facts=facts(_facts(document), label="What was done"),
    )


def _lead(document: Document) -> Words:
    count = len(document.get("steps") or ())
    how = f", a recipe of {count} steps" if count > 1 else ""
    command = Span(f"normsurgery {document['command']}", "bold")
    return (command, Span(" of "), Span(source_name(document["source"]), "bold"), Span(how))


def _alerts(verification: Document, found: Found) -> list[Alert]:
    alerts = []
    if found.gone:
        listed = ", ".join(f"{one.name} ({one.now})" for one in found.gone)
        alerts.append(Alert("This page describes files that are no longer there.", f"{listed}."))
    if verification["verdict"] == "skipped":
        alerts.append(Alert("Not verified.", "Nobody has shown that these weights keep it."))
    if verification["verdict"] == "fail":
        alerts.append(Alert("Verification failed.", "These weights do not keep the contract."))
    return alerts


def _tiles(document: Document, found: Found) -> list[tuple[str, tuple[str, ...]]]:
    source, size = document["source"], found.size
    tiles: list[tuple[str, tuple[str, ...]]] = []
    if size is not None:
        count, weight = short_count(size["parameters"]), file_size(size["bytes"])
        tiles.append(("Parameters", _arrow(short_count(source["parameters"]), count)))
        tiles.append(("Weights on disk", _arrow(file_size(source["bytes"]), weight)))
    for entry in (document.get("losses") or {}).values():
        if "original" in entry and "result" in entry:
            loss = [f"{entry[name]['mean']:.3f}" for name in ("original", "result")]
            tiles.append(("Loss, nats a token", _arrow(*loss)))
            break
    matching = sum(one.now == MATCH for one in found.files)
    tiles.append(("Files as recorded", (f"{matching} of {len(found.files)}",)))
    return tiles


def _arrow(before: str, after: str) -> tuple[str, ...]:
    return (before,) if before == after else (f"{before} →", after)


def _facts(document: Document) -> list[tuple[str, str]]:
    source = document["source"]
    rows = [*surgery_facts(document)]
    if source.get("revision"):
        rows.insert(1, ("commit", str(source["revision"])))
    return [*rows, ("made with", _versions(document))]


def _versions(document: Document) -> str:
    versions = document.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def source_link(source: Document) -> str | None:
    """Where the source lies on the Hub, at its commit; None for a directory."""
    if not source.get("revision"):
        return None
    model, commit = (quote(str(source[key]), errors="replace") for key in ("model", "revision"))
    return f"https://huggingface.co/{model}/tree/{commit}"


def _pictures(found: Found) -> Section | None:
    blocks: list[Block] = list(found.figures)
    if found.remark:
        blocks.append(line(found.remark))
    return Section("pictures", "Pictures", tuple(blocks)) if blocks else None


def _samples(samples: Samples) -> Section | None:
    blocks: list[Block] = [line(samples.said)] if samples.said else []
    if samples.rows:
        marks = "Words that the first model's text does not have are marked."
        blocks += [line(f"{sameness(samples.rows)}. {marks}"), *samples_of(samples.rows)]
    if samples.tops:
        columns = tuple(samples.tops[0])
        rows = [tuple(str(one[name]) for name in columns) for one in samples.tops]
        blocks.append(table(columns, rows, label="Top classes"))
    return Section("samples", "Samples, side by side", tuple(blocks)) if blocks else None


def _receipts(document: Document, found: Found) -> Section:
    blocks: list[Block] = [
        line("SHA-256 of every file, and whether the files that lie there now still match."),
        _files("Result", found.files),
        _files("Source", found.source_files),
    ]
    if found.stray:
        blocks += [line("Beside them, and not of this result:"), points(found.stray)]
    recipe = document.get("recipe")
    if recipe:
        blocks += [
            Heading("Recipe"),
            line("Every option with its value; a .yaml file of this is a recipe to run."),
            Code(recipe_yaml(recipe), "The recipe as YAML"),
            Heading("Make it again"),
            Code("\n".join(reproducing_lines(document, found.name)), "Commands"),
        ]
    return Section("receipts", "Receipts", tuple(blocks))


def _files(label: str, files: Sequence[FileState]) -> Block:
    rows = [(one.name, one.sha256, words(one.now, _STYLES[one.now])) for one in files]
    return table(
        (f"{label.lower()} file", "sha256", "now"), rows, label=f"{label} files", code=(0, 1)
    )


def recipe_yaml(recipe: Document) -> str:
    """The recipe as a file that `normsurgery run` takes."""
    import yaml

    return str(yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)).rstrip()


def reproducing_lines(document: Document, name: str) -> list[str]:
    """What a shell is told to make the result again."""
    import shlex

    where = shlex.quote(f"{name}/surgery.json")
    lines = []
    if document.get("reproduce"):
        lines.append(str(document["reproduce"]))
    source = "" if document["source"].get("revision") else " --set source=PATH"
    again = shlex.quote(f"{name}-again")
    return [*lines, f"normsurgery run {where} --set output={again}{source}"]
