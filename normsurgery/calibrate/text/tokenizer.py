"""A model's own tokenizer: loading it, and what it puts around and between texts."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from normsurgery.anatomy.runtime import quiet
from normsurgery.errors import UsageError

_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "tokenizer_config.json",
)  # fmt: skip
# They differ between models that read alike, and no tokenizer of transformers reads them.
_OF_THE_MODEL = (
    "config.json", "generation_config.json", "surgery.json", "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)  # fmt: skip
# What AutoTokenizer raises for files that are absent, damaged or need a library that is absent.
LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError)


@dataclass(frozen=True)
class Specials:
    """Ids that the tokenizer puts before and after a row, between texts, and at pads."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    end: int | None = None
    pad: int | None = None

    @property
    def count(self) -> int:
        """How many of a row's places they take."""
        return len(self.prefix) + len(self.suffix)


def load_tokenizer(directory: Path, *, trust_remote_code: bool) -> Any | None:
    """The directory's own tokenizer, or None where it has none; else one of LOADING_ERRORS."""
    from transformers import AutoTokenizer

    if not any((directory / name).is_file() for name in _FILES):
        return None
    with quiet():
        return AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=trust_remote_code
        )


def needed_tokenizer(directory: Path, *, trust_remote_code: bool) -> Any:
    """The directory's own tokenizer; UsageError where text cannot be turned into ids."""
    try:
        tokenizer = load_tokenizer(directory, trust_remote_code=trust_remote_code)
    except LOADING_ERRORS as error:
        raise UsageError(
            f"the tokenizer of {directory} cannot be loaded: {' '.join(str(error).split())}",
            "what is measured on text needs the model's own tokenizer",
        ) from None
    if tokenizer is None:
        raise UsageError(
            f"{directory} has no tokenizer",
            "put the model's tokenizer files beside its weights, or choose a method without data",
        )
    return tokenizer


def encode(tokenizer: Any, text: str, *, specials: bool = False) -> list[int]:
    """The ids of a text of any length."""
    with quiet():  # longer than the model's context: rows are cut from it afterwards
        ids: list[int] = tokenizer(text, add_special_tokens=specials)["input_ids"]
    return ids


class Encoder:
    """A tokenizer that reads a long text once: a command measures on the same text again and again.

    The last few long texts are kept for the process, by the tokenizer's class and files. A
    tokenizer whose code is not transformers' own is asked every time: it may read anything.
    """

    _KEPT, _LONG = 8, 2**14  # texts; characters
    _read: ClassVar[OrderedDict[tuple[str, str], tuple[int, ...]]] = OrderedDict()

    def __init__(self, tokenizer: Any, directory: Path) -> None:
        self._tokenizer = tokenizer
        self._identity = _identity(tokenizer, directory)

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text, without special tokens."""
        if self._identity is None or len(text) < self._LONG:
            return tuple(encode(self._tokenizer, text))
        key = (self._identity, text)
        if key not in self._read:
            self._read[key] = tuple(encode(self._tokenizer, text))
            if len(self._read) > self._KEPT:
                self._read.popitem(last=False)
        self._read.move_to_end(key)
        return self._read[key]


def _identity(tokenizer: Any, directory: Path) -> str | None:
    """The same for tokenizers that read every text alike; None where that cannot be known."""
    kind = type(tokenizer)
    if not kind.__module__.startswith("transformers."):
        return None
    found = hashlib.sha256(kind.__qualname__.encode())
    for path in sorted(directory.iterdir()):
        ours = path.suffix in (".json", ".txt", ".model") and path.name not in _OF_THE_MODEL
        if ours and path.is_file():
            found.update(f"{path.name}\0".encode() + path.read_bytes())
    return found.hexdigest()


def specials_of(tokenizer: Any) -> Specials:
    """What stands around a short text when the tokenizer adds its special tokens."""
    short = encode(tokenizer, "a")
    full = encode(tokenizer, "a", specials=True)
    starts = [i for i in range(len(full)) if full[i : i + len(short)] == short]
    at, end = (starts[0], starts[0] + len(short)) if short and starts else (0, len(full))
    return Specials(
        prefix=tuple(full[:at]),
        suffix=tuple(full[end:]),
        end=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
    )


def check_ids(ids: Sequence[int], vocabulary: int | None) -> None:
    """UsageError where the tokenizer's ids go beyond the model's embedding."""
    if vocabulary is not None and ids and max(ids) >= vocabulary:
        raise UsageError(
            f"the tokenizer's ids reach {max(ids)}, the model's vocabulary has {vocabulary}",
            "the tokenizer in the model's directory is not the model's",
        )
