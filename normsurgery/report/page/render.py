"""The templates, filled: a page of its own, and a piece for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from normsurgery.report.page.blocks import Block, Section, Table, Words

if TYPE_CHECKING:
    from jinja2 import Environment

_LONG = 44  # characters from which a cell may be broken into lines


@dataclass(frozen=True)
class Alert:
    """What must not be overlooked."""

    title: str
    text: str


@dataclass(frozen=True)
class Head:
    """The top of the page. badges: (text, style). tiles: (name, pieces of
    the value that are not broken). link: to the source."""

    title: str
    version: str
    lead: Words
    link: str | None
    badges: tuple[tuple[str, str], ...]
    alerts: tuple[Alert, ...]
    tiles: tuple[tuple[str, tuple[str, ...]], ...]
    facts: Table


def render_page(head: Head, sections: Sequence[Section]) -> str:
    """The HTML of a page. The same content gives the same text."""
    from markupsafe import Markup

    style = Markup(_read("page.css").strip())
    page = _environment().get_template("page.html.j2")
    return page.render(head=head, sections=sections, style=style).lstrip() + "\n"


def render_piece(blocks: Sequence[Block]) -> str:
    """Blocks as one element, with the few rules of style that they need."""
    from markupsafe import Markup

    style = Markup(_read("piece.css").strip())
    return _environment().get_template("piece.html.j2").render(blocks=blocks, style=style).strip()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_shown, loader=FunctionLoader(_read),
    )  # fmt: skip
    environment.globals["cell_class"] = _cell_class
    return environment


def _read(name: str) -> str:
    return files("normsurgery.report.page").joinpath(name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """Text with its control characters, lone surrogates and direction marks as escapes."""
    from markupsafe import Markup

    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in value)


def _cell_class(words: Words, column: int, table: Table) -> str | None:
    if column in table.numbers:
        return "number"
    long = sum(len(span.text) for span in words) > _LONG
    names = [name for name, holds in (("code", column in table.code), ("long", long)) if holds]
    return " ".join(names) or None
