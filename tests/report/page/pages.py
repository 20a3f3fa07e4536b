"""Pages made of documents, and HTML read back with the standard library's parser."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from normsurgery.report.page.page import MATCH, NOT_READ, FileState, Found, Samples, report_page

INLINE = {"span", "code", "mark", "a", "strong"}
VOID = {"meta", "link", "br", "hr", "img", "input"}
SHA = "ab" * 32


def found(document: dict[str, Any], **changes: Any) -> Found:
    """As if two files lay on disk as recorded, and nobody had looked at the source."""
    files = [FileState(name, SHA, MATCH) for name in ("model.safetensors", "config.json")]
    given: dict[str, Any] = {
        "name": "out", "files": files,
        "source_files": [FileState("model.safetensors", SHA, NOT_READ)],
        "size": {"parameters": 5, "bytes": 10},
        "samples": Samples(document.get("samples") or (), "From surgery.json."),
    }  # fmt: skip
    return Found(**{**given, **changes})


def page_of(document: dict[str, Any], **changes: Any) -> str:
    return report_page(document, found(document, **changes))


class Read(HTMLParser):
    """Tags with their attributes, the text, and every id; raises where an element is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len({name for name, _ in attrs}), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        self._apart(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> in {self._open}"
        self._open.pop()
        self._apart(tag)

    def _apart(self, tag):
        """Cells and paragraphs are apart for a reader, whatever stands between them in the file."""
        if tag not in INLINE:
            self.pieces.append(" ")

    def handle_data(self, data):
        if "style" not in self._open:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        """All text, white space folded."""
        return " ".join("".join(self.pieces).split())

    def values(self, *attributes: str) -> list[str]:
        """The values of these attributes, of all elements."""
        return [str(a[name]) for _, a in self.tags for name in attributes if name in a]
