"""The template, filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from normsurgery.report.page.blocks import Section, Table, Words

if TYPE_CHECKING:
    from jinja2 import Template

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
    return _template().render(head=head, sections=sections, style=style).lstrip() + "\n"


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_shown,
    )  # fmt: skip
    environment.globals["cell_class"] = _cell_class
    return environment.from_string(_read("page.html.j2"))


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
