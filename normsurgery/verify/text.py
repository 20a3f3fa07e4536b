"""The text that models are compared on, as rows of token ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from normsurgery.anatomy.runtime import quiet
from normsurgery.errors import UsageError

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "tokenizer_config.json",
)  # fmt: skip
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
    """The start of the text to compare on: the bundled sample, a text file, or JSON lines.

    JSON lines need a "text" field each. UsageError where the file is absent, empty or not text.
    """
    if data is None:
        sample = resources.files("normsurgery.verify").joinpath("sample.txt")
        return sample.read_text(encoding="utf-8")
    try:
        with data.open(encoding="utf-8") as handle:
            if data.suffix == ".jsonl":
                text = _join_lines(handle, characters)
            else:
                text = handle.read(characters)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{data} cannot be read as text: {error}",
            'give a text file, or JSON lines with a "text" field',
        ) from None
    if not text.strip():
        raise UsageError(f"{data} holds no text", "give a file with some text in it")
    return text


def _join_lines(handle: Any, characters: int) -> str:
    parts: list[str] = []
    size = 0
    for line in handle:
        if line.strip():
            parts.append(str(json.loads(line)["text"]))
            size += len(parts[-1])
        if size >= characters:
            break
    return "\n\n".join(parts)


def load_tokenizer(directory: Path, *, trust_remote_code: bool) -> Any | None:
    """The directory's own tokenizer, or None where it has none."""
    from transformers import AutoTokenizer

    if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        return None
    with quiet():
        return AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=trust_remote_code
        )


def tokenize(tokenizer: Any, text: str, *, vocabulary: int) -> TokenStream | str:
    """The text as a stream of ids; or, as a string, the reason why it cannot serve."""
    plain = _encode(tokenizer, text, specials=False)
    if not plain:
        return "the tokenizer makes no tokens of the text"
    if max(plain) >= vocabulary:
        return f"the tokenizer's ids reach {max(plain)}, the model has {vocabulary}"
    unknown = tokenizer.unk_token_id
    if unknown is not None and plain.count(unknown) > MAX_UNKNOWN * len(plain):
        return "most of the text is unknown to the tokenizer"
    short = _encode(tokenizer, "a", specials=False)
    full = _encode(tokenizer, "a", specials=True)
    starts = [i for i in range(len(full)) if full[i : i + len(short)] == short]
    at = starts[0] if short and starts else 0
    end = at + len(short) if short and starts else len(full)
    return TokenStream(
        tuple(plain),
        prefix=tuple(full[:at]),
        suffix=tuple(full[end:]),
        pad_id=tokenizer.pad_token_id,
        mask_id=tokenizer.mask_token_id,
    )


def _encode(tokenizer: Any, text: str, *, specials: bool) -> list[int]:
    with quiet():  # longer than the model's context: it is cut into rows below
        ids: list[int] = tokenizer(text, add_special_tokens=specials)["input_ids"]
    return ids
