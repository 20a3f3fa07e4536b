"""Texts as rows of one length: specials around a row, an end token between texts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from normsurgery.calibrate.text.tokenizer import Specials

_BUFFER = 1024  # rows that a shuffle draws from


def packed(
    pieces: Iterable[tuple[Sequence[int], bool]], specials: Specials, *, max_length: int
) -> Iterator[list[int]]:
    """Rows of max_length ids, the last one shorter: each prefix + body + suffix.

    pieces: ids without specials, and whether their document goes on in the next piece. Every id of
    every document stands in exactly one row, in order; an end token, where there is one, stands
    between two documents. A row of one id predicts nothing: where a single id is left over at the
    end and has no specials around it, it is left out.
    """
    size = max_length - specials.count
    if size < 1:
        raise ValueError(f"{max_length} places, {specials.count} of them for special tokens")
    body: list[int] = []
    ended = False
    for ids, goes_on in pieces:
        if ended and specials.end is not None:
            body.append(specials.end)
        ended = not goes_on
        body += ids
        whole = len(body) // size * size
        for start in range(0, whole, size):
            yield _row(body[start : start + size], specials)
        body = body[whole:]
    if body and len(body) + specials.count >= 2:
        yield _row(body, specials)


def _row(body: list[int], specials: Specials) -> list[int]:
    return [*specials.prefix, *body, *specials.suffix]


def shuffled(rows: Iterable[list[int]], seed: int) -> Iterator[list[int]]:
    """The rows in an order drawn through a buffer, so that the source may be endless.

    seed 0 leaves them as they are. The order does not depend on how many rows are taken.
    """
    if seed == 0:
        yield from rows
        return
    draw = random.Random(seed)
    buffer: list[list[int]] = []
    for row in rows:
        if len(buffer) < _BUFFER:
            buffer.append(row)
            continue
        chosen = draw.randrange(_BUFFER)
        row, buffer[chosen] = buffer[chosen], row
        yield row
    draw.shuffle(buffer)
    yield from buffer


def window(rows: Iterable[list[int]], *, skip: int, tokens: int) -> list[list[int]]:
    """Whole rows: past the first that hold `skip` tokens, until there are `tokens`.

    Two windows of the same rows share none where one's skip is at least the other's skip and
    tokens together, counted as rows: skip what the other one took.
    """
    chosen: list[list[int]] = []
    passed = taken = 0
    for row in rows:
        if passed < skip:
            passed += len(row)
            continue
        chosen.append(row)
        taken += len(row)
        if taken >= tokens:
            break
    return chosen
