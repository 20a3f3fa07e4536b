"""Where text comes from: the bundled samples, and files. One document at a time, never all.

A document is a piece of text, or a conversation (a list of messages with role and content).
"""

from __future__ import annotations

import csv
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from normsurgery.calibrate.text.chat import Messages, are_messages
from normsurgery.errors import UsageError
from normsurgery.nearest import choices_hint, nearest, path_hint

SAMPLES = ("prose", "drama")
SAMPLE = "sample:"  # as in --data sample:drama
MESSAGES = "messages"  # the column of conversations that chat data sets agree on
FORMATS = (".txt", ".jsonl", ".parquet", ".csv")
_PIECE = 2**18  # characters of a long text that are tokenized at once


@dataclass(frozen=True)
class Document:
    """content: text or messages. where: its place, for error messages. more: the text goes on."""

    content: str | Messages
    where: str
    more: bool = False


@dataclass(frozen=True)
class Documents:
    """about: what surgery.json says of the source: no local path in it."""

    items: Iterable[Document]
    about: dict[str, Any] = field(default_factory=dict)


def sample(name: str) -> Documents:
    """A bundled text by its name in SAMPLES; UsageError where there is none."""
    if name not in SAMPLES:
        raise UsageError(f"there is no bundled sample {name!r}", choices_hint(name, SAMPLES))
    file = resources.files("normsurgery.calibrate.text") / "samples" / f"{name}.txt.xz"
    text = lzma.decompress(file.read_bytes()).decode("utf-8")
    return Documents(_pieces([text], SAMPLE + name), {"source": SAMPLE + name})


def file_documents(path: Path, text_column: str) -> Documents:
    """The documents of one file, read as they are asked for.

    A name that ends in nothing known is read as .txt is: one long text. UsageError names the file,
    the line or row, and the columns that there are; it comes when the damaged place is reached.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", path_hint(path))
    if path.suffix == ".json":
        raise UsageError(
            f"{path} is one JSON document", "save it as .jsonl: one JSON object a line"
        )
    readers = {".jsonl": _json_lines, ".parquet": _parquet_rows, ".csv": _csv_rows}
    read = readers.get(path.suffix)
    if read is None:
        return Documents(_text_file(path), {"source": path.name})
    rows = chosen(_readable(path, read(path, text_column)), text_column, name=path.name)
    return Documents(rows, {"source": path.name, "text_column": text_column})


def chosen(
    rows: Iterable[tuple[str, Mapping[str, Any]]], text_column: str, *, name: str
) -> Iterator[Document]:
    """The text or the conversation of each row. rows: (its place within `name`, its columns).

    A row's `text_column` counts; where it has none, its conversation in "messages" does. Rows
    without text (null, or white space) are passed over.
    """
    for place, row in rows:
        where = f"{name}, {place}"
        column = MESSAGES if text_column not in row and MESSAGES in row else text_column
        if column not in row:
            raise UsageError(
                f"{where} has no column {text_column!r}; it has {_listed(row)}",
                _nearest_column(text_column, row),
            )
        value = row[column]
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, str) and not are_messages(value):
            raise UsageError(
                f"{where}: column {column!r} holds {type(value).__name__}, neither text "
                "nor messages with role and content",
                f"choose the column of the text with --text-column: {_listed(row)}",
            )
        yield Document(value, where)


def _listed(row: Iterable[str]) -> str:
    return ", ".join(map(str, row)) or "none"


def _nearest_column(asked: str, row: Iterable[str]) -> str:
    near = nearest(asked, map(str, row), cutoff=0.5)
    return f"did you mean --text-column {near}?" if near else "choose one with --text-column"


def _text_file(path: Path) -> Iterator[Document]:
    try:
        with path.open(encoding="utf-8") as handle:
            yield from _pieces(iter(lambda: handle.read(_PIECE), ""), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}", "save it as UTF-8") from None


def _pieces(parts: Iterable[str], where: str) -> Iterator[Document]:
    """One long text in pieces of about _PIECE characters, cut where a paragraph or a line ends."""
    rest = ""
    for part in parts:
        rest += part
        while len(rest) > _PIECE:
            end = _last_break(rest[:_PIECE])
            yield Document(rest[:end], where, more=True)
            rest = rest[end:]
    if rest.strip():
        yield Document(rest, where)


def _last_break(text: str) -> int:
    """Where the last paragraph, line or word starts in the later half; else the end."""
    for mark, after in (("\n\n", 2), ("\n", 1), (" ", 0)):
        at = text.rfind(mark, len(text) // 2)
        if at >= 0:
            return at + after
    return len(text)


def _readable(path: Path, rows: Iterator[Any]) -> Iterator[Any]:
    """The rows, with whatever is wrong with the file as a whole told as a UsageError."""
    try:
        yield from rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())}",
            "is the file whole, and of the kind that its name says?",
        ) from None


def _json_lines(path: Path, _: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UsageError(
                    f"{path}, line {number} is not JSON: {error}",
                    "one JSON object a line; a .txt file is read as one long text",
                ) from None
            if not isinstance(row, dict):
                raise UsageError(
                    f"{path}, line {number} is not a JSON object but a {type(row).__name__}",
                    'one object a line, such as {"text": "…"}',
                )
            yield f"line {number}", row


def _csv_rows(path: Path, _: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle, strict=True)
        for row in reader:
            yield f"line {reader.line_num}", {str(key): value for key, value in row.items()}


def _parquet_rows(path: Path, text_column: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            f"{path.name}: reading parquet files needs pyarrow", "pip install normsurgery[data]"
        ) from None
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            present = file.schema_arrow.names
            # Only what is read: other columns may hold pictures. All of them where neither is
            # there, for the error that lists them.
            wanted = [name for name in (text_column, MESSAGES) if name in present]
            for batch in file.iter_batches(batch_size=256, columns=wanted[:1] or None):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from error
