"""The text that models are compared on, as rows of token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from normsurgery.calibrate.text.documents import file_documents
from normsurgery.calibrate.text.tokenizer import encode, specials_of
from normsurgery.errors import UsageError

# Above this share of unknown tokens the text is not of the model's kind (a protein model, say).
MAX_UNKNOWN = 0.5


@dataclass(frozen=True)
class TokenStream:
    """Token ids of a long text without special tokens, and what the tokenizer puts around a row."""

    ids: tuple[int, ...]
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    pad_id: int | None = None
    mask_id: int | None = None

    def rows(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Consecutive pieces of the text, one of each length; stops where the text ends."""
        start = 0
        specials = len(self.prefix) + len(self.suffix)
        for length in lengths:
            body = self.ids[start : start + max(1, length - specials)]
            start += len(body)
            row = [*self.prefix, *body, *self.suffix]
            if not body or len(row) < 2:
                return
            yield row


def read_text(data: Path | None, *, characters: int) -> str:
    """The start of the text to compare on: the bundled sample, or a file's.

    The file is .txt, or .jsonl, .parquet or .csv with a "text" column. UsageError where it is
    absent, empty, damaged or not text.
    """
    if data is None:
        sample = resources.files("normsurgery.verify").joinpath("sample.txt")
        return sample.read_text(encoding="utf-8")
    text, size = "", 0
    for document in file_documents(data, "text").items:
        if not isinstance(document.content, str):
            raise UsageError(
                f"{document.where} is a conversation", "verification compares models on plain text"
            )
        text += document.content if document.more else document.content + "\n\n"
        size += len(document.content)
        if size >= characters:
            break
    if not text.strip():
        raise UsageError(f"{data} holds no text", "give a file with some text in it")
    return text.rstrip("\n")


def tokenize(tokenizer: Any, text: str, *, vocabulary: int) -> TokenStream | str:
    """The text as a stream of ids; or, as a string, the reason why it cannot serve."""
    plain = encode(tokenizer, text)
    if not plain:
        return "the tokenizer makes no tokens of the text"
    if max(plain) >= vocabulary:
        return f"the tokenizer's ids reach {max(plain)}, the model has {vocabulary}"
    unknown = tokenizer.unk_token_id
    if unknown is not None and plain.count(unknown) > MAX_UNKNOWN * len(plain):
        return "most of the text is unknown to the tokenizer"
    around = specials_of(tokenizer)
    return TokenStream(
        tuple(plain),
        prefix=around.prefix,
        suffix=around.suffix,
        pad_id=around.pad,
        mask_id=tokenizer.mask_token_id,
    )
