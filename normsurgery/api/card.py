"""`card`: the model card of an output, made again from its surgery.json and a template."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from normsurgery.api.result import Result
from normsurgery.errors import CheckpointError, ResourceError, UsageError
from normsurgery.nearest import path_hint
from normsurgery.report.progress import Progress
from normsurgery.version import VERSION

_LARGEST = 10_000_000  # bytes of a card or a template


class CardResult(Result):
    """The model card that was written (or, on a dry run, would be), as a document."""

    @property
    def text(self) -> str:
        """The whole card: front matter, our section, and what stands around it."""
        return str(self.document["card"])


def card(
    output: str | Path,
    *,
    template: str | Path | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> CardResult:
    """Render OUT/README.md again from OUT/surgery.json.

    output: a directory that another command has written. template: a file in Jinja2's language;
    None: the one that made the card. Only the section between our two marks is made anew: what
    stands above and below it stays, the source's own card with it. In the front matter every key
    that is there stays; tags and keys that are missing are added. The file is replaced in one
    step. dry_run: write nothing; the card is in the document. progress: not used, nothing here
    takes time. The same template in the same directory gives the same bytes.
    Raises UsageError for a template that does not exist or cannot be rendered and for a card
    without one of the two marks, CheckpointError for what is no output of ours, ResourceError
    where it cannot be written.
    """
    from normsurgery.hub.outputs import CARD, read_papers
    from normsurgery.report.card import renewed_card
    from normsurgery.report.template import SHIPPED, shipped_template

    started = time.monotonic()
    where = Path(output)
    papers = read_papers(where)
    text = shipped_template() if template is None else _text_of(Path(template))
    name = SHIPPED if template is None else Path(template).name
    before = _card_of(where / CARD)
    after = _rendered(papers, before, text, name, renewed_card)
    changed = before != after
    if changed and not dry_run:
        _replace(where / CARD, after)
    document = {
        "command": "card",
        "version": VERSION,
        "output": str(output),
        "source": papers["source"],
        "surgery": papers["command"],
        "template": None if template is None else str(template),
        "dry_run": dry_run,
        "changed": changed,
        "bytes": len(_encoded(after)),
        "card": after,
        "seconds": round(time.monotonic() - started, 3),
    }
    return CardResult(document)


def _rendered(
    papers: dict[str, Any], before: str | None, template: str, name: str, render: Any
) -> str:
    """The new card. Raises CheckpointError where surgery.json lacks what a card tells of."""
    try:
        return str(render(papers, before, template, name))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"surgery.json lacks what the card tells of ({type(error).__name__}: {error})",
            "it was edited, or another version wrote it; run the surgery again",
        ) from error


def _text_of(path: Path) -> str:
    """A template's text. Raises UsageError where there is none."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file", path_hint(path))
    try:
        return _read(path).decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text in UTF-8", "save it as UTF-8") from None


def _card_of(path: Path) -> str | None:
    """What is there now, with its odd bytes as surrogates and line ends of one kind."""
    if not os.path.lexists(path):
        return None
    from normsurgery.checkpoint.files import check_inside

    check_inside(path, path.parent.resolve())
    return _read(path).decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def _read(path: Path) -> bytes:
    from normsurgery.checkpoint.files import read_small

    return read_small(path, _LARGEST)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, in one rename."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with staged.open("wb") as file:
            file.write(_encoded(text))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            staged.chmod(path.stat().st_mode & 0o777)
        staged.replace(path)
    except OSError as error:
        raise ResourceError(f"{path} cannot be written: {error.strerror}", "check it") from None
    finally:
        with suppress(OSError):
            staged.unlink()
