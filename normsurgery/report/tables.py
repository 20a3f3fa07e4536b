"""The few shapes that every report is made of: a title line, a plain table, a named list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from normsurgery.report.text import printable

VERDICT_STYLES = {"pass": "bold green", "fail": "bold red", "skipped": "bold yellow"}


def title(command: str, subject: str) -> Text:
    """`convert  gpt2@607a30d → out`."""
    return Text.assemble((command, "bold"), "  ", printable(subject))


def plain_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Iterable[int] = (),
    whole: Iterable[int] = (),
) -> Table:
    """A table without lines. right: columns of numbers. whole: columns that are never broken.

    Text that does not fit is folded and never cut, so that a name can always be copied.
    """
    numbers, unbroken = set(right), set(whole)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for position, name in enumerate(columns):
        table.add_column(
            name,
            justify="right" if position in numbers else "left",
            overflow="fold",
            no_wrap=position in unbroken,
        )
    for row in rows:
        table.add_row(*(Text(printable(c)) if isinstance(c, str) else c for c in row))
    return table


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Names on the left, what is said of them on the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(printable(value)))
    return table


def section(name: str, *parts: RenderableType) -> list[RenderableType]:
    """A heading with what stands under it, after an empty line."""
    return [
        Text(),
        Text(name, "bold"),
        *(Padding(part, (0, 0, 0, 2), expand=False) for part in parts),
    ]


def code(lines: Iterable[str]) -> list[RenderableType]:
    """Lines to copy: indented, and left to the terminal to wrap, so that none gains a break."""
    return [Text(f"  {printable(line)}", no_wrap=True) for line in lines]


def verdict(word: str) -> Text:
    """pass, fail or skipped, in its colour."""
    return Text(word, VERDICT_STYLES.get(word, ""))
