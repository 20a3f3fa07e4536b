"""`report`: a result as one HTML file that a person can read, print and pass on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery.api.result import Result
from normsurgery.checkpoint.text import shown
from normsurgery.errors import CheckpointError, UsageError
from normsurgery.report.progress import Progress, Silent
from normsurgery.version import VERSION

if TYPE_CHECKING:
    from normsurgery.api.reporting.request import SampleRequest
    from normsurgery.checkpoint import Checkpoint
    from normsurgery.report.page.page import FileState, Found, Samples

ENDING = ".report.html"
_HOW = (
    "surgery.json has no samples of this result. `normsurgery report {name} --samples 3 --source "
    "MODEL` lets both models go on from the same text, and marks where they part."
)
_RECORDED = "Greedy continuations of held-out text, from surgery.json."
_OF_A_STEP = " They are of the last step that took samples: the result is what that step made."


class ReportResult(Result):
    """Where the page lies, and what it found on disk, as a document."""

    @property
    def unchanged(self) -> bool:
        """Whether every file is still what surgery.json describes."""
        return bool(self.document["unchanged"])


def report(
    result: str | Path,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    samples: int | None = None,
    prompts: Sequence[str] = (),
    data: str | None = None,
    source: str | None = None,
    device: str = "auto",
    seed: int = 0,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> ReportResult:
    """Write the page of a result, a directory that another command has written.

    output: the file; None is RESULT.report.html beside the directory, which is not touched.
    samples: so many starts of texts of `data` (None: the bundled prose) that both models go on
    from; prompts: texts of one's own. data: text; or images for a classifier, of which the page
    then has both models' classes. Without these, no model is loaded, and the samples of
    surgery.json are shown where it has some. source: the original, where surgery.json names none of
    the Hub.

    A file that is not what surgery.json describes any more does not stop the page: it says so, and
    `unchanged` of the result is False. Raises UsageError for a bad request or a page that exists,
    CheckpointError for what is no output of ours.
    """
    from normsurgery.hub.outputs import read_papers
    from normsurgery.report.page.page import report_page

    started = time.monotonic()
    directory, shower = Path(result), progress or Silent()
    papers = read_papers(directory)
    page = _page_path(directory, output, overwrite=overwrite)
    request = _request(samples, prompts, data, device, seed)
    found = _found(
        directory, papers, request, source,
        trust=trust_remote_code, allow_pickle=allow_pickle, progress=shower,
    )  # fmt: skip
    with _readable():
        found = _drawn(papers, found)
        text = report_page(papers, found)
        document = {**_document(papers, found), "result": str(result), "output": str(page)}
    _write(page, text)
    document["bytes"] = page.stat().st_size
    document["seconds"] = round(time.monotonic() - started, 3)
    return ReportResult(document)


def _document(papers: Mapping[str, Any], found: Found) -> dict[str, Any]:
    return {
        "command": "report",
        "version": VERSION,
        "source": papers["source"],
        "surgery": papers["command"],
        "verdict": papers["verification"]["verdict"],
        "files": [dict(vars(one)) for one in found.files],
        "source_files": [dict(vars(one)) for one in found.source_files],
        "unchanged": not found.gone,
        "pictures": [one.name for one in found.figures],
        "samples": len(found.samples.rows) or len(found.samples.tops),
        "notes": [text for text in (found.remark, found.samples.said) if text],
    }


def _page_path(directory: Path, output: str | Path | None, *, overwrite: bool) -> Path:
    """Where the page goes. Raises UsageError where it cannot."""
    home = directory.resolve()
    plain = directory if directory.name and directory.name != ".." else home
    page = plain.with_name(f"{home.name}{ENDING}") if output is None else Path(output)
    if page.resolve().is_relative_to(home):
        raise UsageError(
            f"{shown(page)} lies inside the result, whose files are recorded",
            "choose a place beside it",
        )
    if page.is_dir() or not page.parent.is_dir():
        raise UsageError(f"{shown(page)} cannot be written as a file", "choose another -o")
    if os.path.lexists(page) and not overwrite:
        raise UsageError(f"{shown(page)} exists", "--overwrite replaces it, -o writes another")
    return page


def _request(
    samples: int | None, prompts: Sequence[str], data: str | None, device: str, seed: int
) -> SampleRequest:
    from normsurgery.api.reporting.request import SampleRequest

    if samples is not None and samples < 1:
        raise UsageError("--samples takes a number from 1", "leave it out for none")
    return SampleRequest(samples, tuple(prompts), data, device, seed=seed)


def _found(
    directory: Path,
    papers: Mapping[str, Any],
    request: SampleRequest,
    source: str | None,
    *,
    trust: bool,
    allow_pickle: bool,
    progress: Progress,
) -> Found:
    """All that the page shows beside surgery.json."""
    from normsurgery.api.reporting.files import states, unread, weights_size
    from normsurgery.hub.outputs import CARD, PAPERS, present_files
    from normsurgery.report.page.page import Found

    written = papers["files"]["result"]
    listed = {name: sha for name, sha in written.items() if name not in (PAPERS, CARD)}
    present, _ = present_files(directory)
    original = _original(papers, source, needed=request.asked, allow_pickle=allow_pickle)
    recorded = papers["files"].get("source") or {}
    files = states(listed, directory, progress)
    source_files = _of_source(original, recorded, progress) if original else unread(recorded)
    taken = _samples(papers, directory, original, request, trust, allow_pickle, progress)
    return Found(
        name=directory.resolve().name,
        files=files,
        source_files=source_files,
        stray=[name for name in present if name not in {PAPERS, CARD, *listed}],
        size=weights_size(directory),
        samples=taken,
    )


def _original(
    papers: Mapping[str, Any], source: str | None, *, needed: bool, allow_pickle: bool
) -> Checkpoint | None:
    """The source, where it was named or is needed. Raises what opening it raises."""
    from normsurgery.checkpoint import open_checkpoint

    said = papers.get("source") or {}
    if source is None and needed and said.get("revision"):
        source = f"{said['model']}@{said['revision']}"
    if source is None and needed:
        raise UsageError(
            "the source was a directory, which surgery.json names by its name alone",
            "--source MODEL says where it is",
        )
    return None if source is None else open_checkpoint(source, allow_pickle=allow_pickle)


def _of_source(
    original: Checkpoint, recorded: Mapping[str, str], progress: Progress
) -> list[FileState]:
    """The source's files. Raises UsageError where they are another model's."""
    from normsurgery.api.reporting.files import changed, states

    found = states(recorded, original.directory, progress)
    other = changed(found)
    if other:
        raise UsageError(
            f"the source is not the model that this result was made from: {shown(other[0])} "
            "differs from what surgery.json records",
            "give the original by --source, at the commit that it had",
        )
    return found


def _samples(
    papers: Mapping[str, Any],
    directory: Path,
    original: Checkpoint | None,
    request: SampleRequest,
    trust: bool,
    allow_pickle: bool,
    progress: Progress,
) -> Samples:
    """Those that were asked for, else those of surgery.json; no model is opened for the latter."""
    from normsurgery.report.page.page import Samples

    if request.asked and original is not None:
        if papers["target"]["form"] == "graft" and not trust:
            raise UsageError(
                "the result opens only by the modeling file beside its weights",
                "--trust-remote-code runs it",
            )
        from normsurgery.api.reporting.sampling import take_samples
        from normsurgery.verify import ModelSource

        both = [
            ModelSource(place, trust_remote_code=trust, allow_pickle=allow_pickle)
            for place in (original.directory, directory)
        ]
        return take_samples(both[0], both[1], request, progress)
    recorded = papers.get("samples") or ()
    said = _RECORDED if recorded else _HOW.format(name=directory.resolve().name)
    if recorded and len(papers.get("steps") or ()) > 1:
        said += _OF_A_STEP
    return Samples(recorded, said)


def _drawn(papers: Mapping[str, Any], found: Found) -> Found:
    """With the pictures, or with the reason why there are none."""
    from normsurgery.plots import pictures
    from normsurgery.report.page.blocks import Figure
    from normsurgery.report.page.svg import safe_svg

    figures = []
    try:
        for one in pictures(papers):
            svg = safe_svg(one.svg(), one.name)
            figures.append(Figure(one.name, one.title, one.caption, svg))
    except UsageError as error:
        return replace(found, remark=f"No pictures: {error.message} ({error.hint}).")
    return replace(found, figures=figures)


@contextmanager
def _readable() -> Iterator[None]:
    """CheckpointError for a surgery.json that lacks what every surgery writes."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"surgery.json is not of a shape that this version can show ({error!r})",
            "run the surgery again",
        ) from error


def _write(page: Path, text: str) -> None:
    """The whole page, or none."""
    beside = page.with_name(f".{page.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(page)
    finally:
        beside.unlink(missing_ok=True)
