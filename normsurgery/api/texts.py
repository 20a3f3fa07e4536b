"""The texts that a surgery with data reads: what it is fitted to, and what it is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from normsurgery.calibrate.text.rows import TextRows
from normsurgery.calibrate.text.sources import load_rows
from normsurgery.errors import UsageError

PROSE, DRAMA = "sample:prose", "sample:drama"
JUDGED_TOKENS = 8192  # of each domain
_HELD_SHARE = 0.1


@dataclass(frozen=True)
class TextRequest:
    """data, other_data: as the options spell them. max_length: None is what the model reads."""

    data: str | None = None
    text_column: str = "text"
    tokens: int = 65_536
    max_length: int | None = None
    other_data: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Texts:
    """fitted: what scores and fits are measured on. domains: held-out text, by the domain's name.

    Nothing in `domains` is in `fitted`.
    """

    fitted: TextRows
    domains: Mapping[str, TextRows]


def read_texts(directory: Path, request: TextRequest, *, trust_remote_code: bool = False) -> Texts:
    """Read them through the model's own tokenizer.

    The held-out rows of the calibration domain follow the ones that are fitted to; where the
    source ends before, a tenth of its rows is held out. The other domain is the bundled drama, or
    the bundled prose where drama is what is fitted to. Raises what `load_rows` raises.
    """

    def read(data: str | None, tokens: int, skip: int = 0) -> TextRows:
        return load_rows(
            directory, data=data, text_column=request.text_column, tokens=tokens,
            max_length=request.max_length, seed=request.seed, skip_tokens=skip,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip

    fitted = read(request.data, request.tokens)
    try:
        held = read(request.data, JUDGED_TOKENS, skip=request.tokens)
    except UsageError:  # there is nothing beyond what was asked for
        fitted, held = fitted.split(_HELD_SHARE, request.seed)
    another = PROSE if request.data == DRAMA else DRAMA
    other = read(request.other_data or another, JUDGED_TOKENS)
    return Texts(fitted, {"calibration": held, "other": other})
