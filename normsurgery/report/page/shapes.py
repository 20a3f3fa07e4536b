"""The terminal's report as blocks of a page, so that a page says all that a terminal does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from textwrap import dedent

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from normsurgery.report.page.blocks import Block, Code, Heading, Line, Points, Span, Table, Words

_STYLES = {
    "bold green": "pass", "bold red": "fail", "bold yellow": "skipped", "yellow": "skipped",
    "dim": "dim", "bold": "bold",
}  # fmt: skip
_BULLET = "·"


def blocks_of(parts: Iterable[RenderableType]) -> tuple[Block, ...]:
    """Every part that `report.tables` can make, in order; empty lines fall away.

    TypeError for anything else, so that no part of a report is lost without a word.
    """
    found: list[Block] = []
    for code, together in groupby(parts, key=_is_code):
        if code:
            found.append(Code(dedent("\n".join(str(line) for line in together))))
        else:
            found += (block for part in together for block in _blocks(part))
    return tuple(found)


def _is_code(part: RenderableType) -> bool:
    """Lines to copy are those that a terminal must not break."""
    return isinstance(part, Text) and bool(part.no_wrap)


def _blocks(part: RenderableType) -> Iterator[Block]:
    if isinstance(part, Padding):
        yield from _blocks(part.renderable)
    elif isinstance(part, RichTable):
        yield _table(part)
    elif isinstance(part, Text):
        if part.plain.strip():
            yield Heading(part.plain) if str(part.style) == "bold" else Line(_words(part))
    else:
        raise TypeError(f"a report has no {type(part).__name__}")


def _table(found: RichTable) -> Table | Points:
    columns = [[_words(cell) for cell in column.cells] for column in found.columns]
    rows = tuple(zip(*columns, strict=True))
    if not found.show_header:
        if rows and all(_plain(row[0]) == _BULLET for row in rows):
            return Points(tuple(row[1] for row in rows))
        return Table((), rows)
    numbers = {i for i, column in enumerate(found.columns) if column.justify == "right"}
    names = tuple(_plain(_words(column.header)) for column in found.columns)
    return Table(names, rows, numbers=frozenset(numbers))


def _plain(found: Words) -> str:
    return "".join(span.text for span in found)


def _words(cell: RenderableType) -> Words:
    """A text with the styles that mean something; a span's style wins over the text's own."""
    if not isinstance(cell, Text):
        return (Span(str(cell)),)
    spans, done = [], 0
    own = _STYLES.get(str(cell.style), "")
    for span in sorted(cell.spans, key=lambda one: one.start):
        start = max(done, span.start)
        if start > done:
            spans.append(Span(cell.plain[done:start], own))
        if span.end > start:
            spans.append(Span(cell.plain[start : span.end], _STYLES.get(str(span.style), own)))
            done = span.end
    if done < len(cell.plain):
        spans.append(Span(cell.plain[done:], own))
    return tuple(spans)
