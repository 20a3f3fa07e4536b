"""What a page is made of: sections of blocks, plain data that a template lays out.

Every text in here is plain text; the template escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Span:
    """A piece of text. style: "" or a class of the style sheet (pass, fail, skipped, dim,
    bold, code, differs)."""

    text: str
    style: str = ""


Words = tuple[Span, ...]


@dataclass(frozen=True)
class Table:
    """columns: empty for a table of facts, whose first column names what the second says.

    numbers: columns of figures. code: columns of names that can be copied.
    """

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[Words, ...], ...]
    label: str = ""
    numbers: frozenset[int] = frozenset()
    code: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Points:
    """A bulleted list."""

    kind: ClassVar[str] = "points"
    items: tuple[Words, ...]


@dataclass(frozen=True)
class Line:
    """A paragraph."""

    kind: ClassVar[str] = "line"
    words: Words


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    kind: ClassVar[str] = "code"
    text: str
    label: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Figure:
    """svg: markup that is safe as it stands (`safe_svg`)."""

    kind: ClassVar[str] = "figure"
    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Sample:
    """A prompt, and how each model goes on: (name, marked words)."""

    kind: ClassVar[str] = "sample"
    prompt: str
    columns: tuple[tuple[str, Words], ...]


@dataclass(frozen=True)
class Details:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: tuple[Block, ...]


Block = Table | Points | Line | Code | Heading | Figure | Sample | Details


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in the contents."""

    id: str
    title: str
    blocks: tuple[Block, ...] = field(default=())


def words(text: object, style: str = "") -> Words:
    """A text as one span."""
    return (Span(str(text), style),)


def line(text: str, style: str = "") -> Line:
    """A paragraph of one style."""
    return Line(words(text, style))


def points(texts: Iterable[str]) -> Points:
    """A list of texts, in which names may stand between backticks."""
    return Points(tuple(_named(text) for text in texts))


def _named(text: str) -> Words:
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a backtick that stands alone is one
        return words(text)
    spans = (Span(piece, "code" if i % 2 else "") for i, piece in enumerate(pieces))
    return tuple(span for span in spans if span.text)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    label: str = "",
    numbers: Iterable[int] = (),
    code: Iterable[int] = (),
) -> Table:
    """A table of plain cells, or of `Words` where a cell has a style."""
    made = tuple(tuple(_cell(cell) for cell in row) for row in rows)
    return Table(tuple(columns), made, label, frozenset(numbers), frozenset(code))


def facts(rows: Iterable[tuple[str, object]] | Mapping[str, object], *, label: str = "") -> Table:
    """Names on the left, what is said of them on the right."""
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    return table((), pairs, label=label)


def _cell(cell: object) -> Words:
    return cell if isinstance(cell, tuple) else words(cell)
