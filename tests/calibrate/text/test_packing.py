"""Packing: every token once and in order, rows of the length that was asked for."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normsurgery.calibrate.text.packing import packed, shuffled, window
from normsurgery.calibrate.text.tokenizer import Specials

PREFIX, SUFFIX, END = 100, 101, 102
ids = st.integers(0, 99)
pieces = st.lists(st.tuples(st.lists(ids, min_size=1, max_size=40), st.booleans()), max_size=12)
specials = st.builds(
    Specials,
    prefix=st.sampled_from([(), (PREFIX,)]),
    suffix=st.sampled_from([(), (SUFFIX,)]),
    end=st.sampled_from([None, END]),
)


@given(pieces, specials, st.integers(3, 20))
def test_every_token_stands_in_one_row_in_order(given_pieces, around, length):
    rows = list(packed(given_pieces, around, max_length=length))
    bodies = [row[len(around.prefix) : len(row) - len(around.suffix)] for row in rows]
    expected: list[int] = []
    for index, (piece, _) in enumerate(given_pieces):
        if index and not given_pieces[index - 1][1] and around.end is not None:
            expected.append(around.end)
        expected += piece
    found = list(itertools.chain(*bodies))
    alone = not around.count and len(expected) % length == 1
    assert found == (expected[:-1] if alone else expected)
    assert all(len(row) == length for row in rows[:-1])
    assert all(2 <= len(row) <= length for row in rows)
    assert all(
        row == [*around.prefix, *b, *around.suffix] for row, b in zip(rows, bodies, strict=True)
    )


def test_rows_that_specials_fill_hold_no_text():
    with pytest.raises(ValueError, match="2 places, 2 of them"):
        list(packed([([1], False)], Specials((1,), (2,)), max_length=2))


@given(st.integers(0, 2500), st.integers(1, 2**31), st.integers(0, 2500))
def test_a_shuffle_moves_every_row_and_does_not_look_ahead(count, seed, taken):
    rows = [[i] for i in range(count)]
    once = list(shuffled(rows, seed))
    assert sorted(once) == rows
    assert list(itertools.islice(shuffled(iter(rows), seed), taken)) == once[:taken]


def test_a_shuffle_of_seed_0_is_none_and_others_differ():
    rows = [[i] for i in range(50)]
    assert list(shuffled(rows, 0)) == rows
    assert rows != list(shuffled(rows, 1)) != list(shuffled(rows, 2))


def test_an_endless_source_is_shuffled_through_a_buffer():
    endless = ([i] for i in itertools.count())
    assert len(list(itertools.islice(shuffled(endless, 5), 10))) == 10


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(0, 60), st.integers(1, 60))
def test_what_one_window_takes_the_next_one_skips(lengths, skip, tokens):
    rows = [[i] * length for i, length in enumerate(lengths)]
    first = window(rows, skip=0, tokens=tokens)
    second = window(rows, skip=tokens, tokens=10**6)
    assert first + second == rows
    assert sum(map(len, first[:-1])) < tokens
    assert window(rows, skip=0, tokens=10**6) == rows
