"""Text in, rows of ids out: what calibration, held-out losses and samples are measured on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from normsurgery.calibrate.text.chat import chat_ids
from normsurgery.calibrate.text.documents import (
    FORMATS,
    SAMPLE,
    Document,
    Documents,
    file_documents,
    sample,
)
from normsurgery.calibrate.text.hub_data import dataset_documents, parse
from normsurgery.calibrate.text.packing import packed, shuffled, window
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.calibrate.text.tokenizer import (
    Encoder,
    Specials,
    check_ids,
    needed_tokenizer,
    specials_of,
)
from normsurgery.checkpoint.text import parse_object
from normsurgery.errors import CheckpointError, UsageError

MAX_LENGTH = 2048  # of a row, where the model reads as much
_CONTEXT_KEYS = (
    "max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len",
    "max_sequence_length", "max_target_positions",
)  # fmt: skip
_UNLIMITED = 10**9  # tokenizers say 10**30 where they know of no limit


def load_rows(
    directory: Path,
    *,
    data: str | None,
    text_column: str = "text",
    tokens: int,
    max_length: int | None,
    seed: int = 0,
    skip_tokens: int = 0,
    trust_remote_code: bool = False,
) -> TextRows:
    """About `tokens` tokens of a text through the model's own tokenizer, as whole rows.

    directory: the model's. data: None is the bundled prose, `sample:drama` the other sample; a
    .txt file (one long text), .jsonl, .parquet or .csv (a document a row, in `text_column`, or a
    conversation in "messages" through the model's chat template); `owner/name[:config][@split]`
    of the Hub, or a directory in that place.

    Documents are packed into rows of max_length (None: what the model reads, 2048 at most) with an
    end token between them; a conversation is a row of its own. seed 0 takes rows in order, another
    draws them. skip_tokens leaves out the rows that hold the first `skip_tokens` tokens: with the
    same seed and length, rows that another call with `tokens=skip_tokens` did not return. A source
    with less gives what it has and says so in `about`.

    UsageError: no tokenizer, no such file or data set or column, no text, damaged lines. HubError:
    a data set cannot be reached.
    """
    if tokens < 2:
        raise UsageError(f"{tokens} tokens are too few to measure anything", "raise --tokens")
    tokenizer = needed_tokenizer(directory, trust_remote_code=trust_remote_code)
    length = _length(max_length, tokenizer, directory)
    source = _source(data, text_column)
    specials = specials_of(tokenizer)
    if length < specials.count + 1:
        raise UsageError(
            f"rows of {length} tokens hold no text: {specials.count} are special tokens",
            "raise --max-length",
        )
    encoder = Encoder(tokenizer, directory)
    reader = _Reader(tokenizer, encoder, specials, length, _vocabulary(directory))
    rows = shuffled(reader.rows(source.items), seed)
    chosen = window(rows, skip=skip_tokens, tokens=tokens)
    about = {**source.about, "max_length": length, "seed": seed, "skipped_tokens": skip_tokens}
    made = TextRows.of(chosen, pad_id=specials.pad or 0, **about)
    return _checked(made, tokens, reader)


def row_length(directory: Path, asked: int | None, *, trust_remote_code: bool = False) -> int:
    """How long `load_rows` makes the rows, without reading a text.

    UsageError where more is asked for than the model reads, or it has no tokenizer.
    """
    tokenizer = needed_tokenizer(directory, trust_remote_code=trust_remote_code)
    return _length(asked, tokenizer, directory)


def _source(data: str | None, text_column: str) -> Documents:
    if data is None:
        return sample("prose")
    if data.startswith(SAMPLE):
        return sample(data.removeprefix(SAMPLE))
    path = Path(data)
    if path.suffix in FORMATS or path.is_file():
        return file_documents(path, text_column)
    return dataset_documents(parse(data), text_column)


class _Reader:
    """Documents → rows: texts packed, a conversation a row."""

    def __init__(
        self,
        tokenizer: Any,
        encoder: Encoder,
        specials: Specials,
        length: int,
        vocabulary: int | None,
    ) -> None:
        self._tokenizer, self._encoder, self._specials = tokenizer, encoder, specials
        self._length, self._vocabulary = length, vocabulary
        self.cut = 0

    def rows(self, documents: Iterable[Document]) -> Iterator[list[int]]:
        """A source is of one kind, which its first document tells."""
        items = iter(documents)
        first = next(items, None)
        if first is None:
            return
        everything = itertools.chain([first], items)
        if isinstance(first.content, str):
            yield from packed(self._texts(everything), self._specials, max_length=self._length)
        else:
            yield from self._conversations(everything)

    def _texts(self, documents: Iterable[Document]) -> Iterator[tuple[Sequence[int], bool]]:
        for document in documents:
            if not isinstance(document.content, str):
                raise _mixed(document)
            ids = self._encoder.encode(document.content)
            check_ids(ids, self._vocabulary)
            yield ids, document.more

    def _conversations(self, documents: Iterable[Document]) -> Iterator[list[int]]:
        for document in documents:
            if isinstance(document.content, str):
                raise _mixed(document)
            ids = chat_ids(self._tokenizer, document.content, where=document.where)
            check_ids(ids, self._vocabulary)
            self.cut += len(ids) > self._length
            if len(ids) >= 2:
                yield ids[: self._length]


def _mixed(document: Document) -> UsageError:
    return UsageError(
        f"{document.where}: text and conversations are mixed in one source",
        "split it into two files",
    )


def _checked(rows: TextRows, tokens: int, reader: _Reader) -> TextRows:
    """The rows with a note where the source was shorter than what was asked of it."""
    source, skipped = rows.about["source"], rows.about["skipped_tokens"]
    if not len(rows.ids):
        beyond = f" beyond its first {skipped:,} tokens" if skipped else ""
        raise UsageError(f"{source} holds no text{beyond}", "give a source with more text in it")
    notes = []
    if rows.tokens < tokens:
        notes.append(f"{tokens:,} tokens were asked for, {source} gives {rows.tokens:,}")
    if reader.cut:
        notes.append(f"{reader.cut:,} conversations were cut at {rows.about['max_length']} tokens")
    return replace(rows, about={**rows.about, "notes": notes})


def _length(asked: int | None, tokenizer: Any, directory: Path) -> int:
    context = _context(_config(directory))
    usual = min(MAX_LENGTH, context, _stated(tokenizer.model_max_length))
    if asked is None:
        return usual
    if asked > context:
        raise UsageError(
            f"rows of {asked} tokens are longer than the {context} that the model reads",
            f"give --max-length {usual}, or leave it out",
        )
    return asked


def _stated(limit: int | None) -> int:
    return _UNLIMITED if limit is None or not 0 < limit < _UNLIMITED else limit


def _context(config: dict[str, Any]) -> int:
    """How many positions the text part of a model has; _UNLIMITED where it does not say."""
    found = [config[key] for key in _CONTEXT_KEYS if isinstance(config.get(key), int)]
    return min((value for value in found if value > 1), default=_UNLIMITED)


def _vocabulary(directory: Path) -> int | None:
    size = _config(directory).get("vocab_size")
    return size if isinstance(size, int) else None


def _config(directory: Path) -> dict[str, Any]:
    """config.json's part about text: the text decoder's where the model has several parts."""
    path = directory / "config.json"
    hint = "is this a checkpoint?"
    try:
        config = parse_object(path.read_bytes(), str(path), hint)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint) from None
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config
