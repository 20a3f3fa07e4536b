"""The text of a run: what trains, and what is kept apart to measure on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from normsurgery.calibrate.text.rows import TextRows
from normsurgery.train.options import HELD_OUT_SHARE

OTHER_TOKENS = 8192  # of the bundled text
GIVEN_TOKENS = 100_000  # of another that is named: a hundred beyond the 99.9th percentile
PROSE, DRAMA = "sample:prose", "sample:drama"


@dataclass(frozen=True)
class Domains:
    """training: rows to train on. measured: domain → rows that did not train, the own one first."""

    training: TextRows
    measured: dict[str, TextRows]


def load_domains(
    directory: Path,
    *,
    data: str | None,
    text_column: str,
    tokens: int,
    max_length: int | None,
    seed: int,
    other_data: str | None = None,
    trust_remote_code: bool = False,
) -> Domains:
    """Text through the tokenizer in `directory`, split before anything trains.

    A tenth of the rows is held out. The other domain is `other_data`; the bundled prose, or where
    that trains, the bundled drama. Raises what `load_rows` raises, and
    UsageError for fewer than two rows.
    """
    from normsurgery.calibrate.text.sources import load_rows

    given = PROSE if data is None else data
    rows = load_rows(
        directory, data=given, text_column=text_column, tokens=tokens, max_length=max_length,
        seed=seed, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    training, held_out = rows.split(HELD_OUT_SHARE, seed)
    other = other_data or (DRAMA if given == PROSE else PROSE)
    size = OTHER_TOKENS if other_data is None else GIVEN_TOKENS
    elsewhere = load_rows(
        directory, data=other, tokens=size, max_length=max_length, text_column=text_column,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    own, name = (str(one.about.get("source", "data")) for one in (held_out, elsewhere))
    return Domains(training, {own: held_out, f"{name} (other)" if name == own else name: elsewhere})
