"""Rows of ids: padding, what is scored, whole-row splits, batches."""

from __future__ import annotations

import pytest
import torch

from normsurgery.calibrate.text.rows import TextRows
from normsurgery.errors import UsageError


@pytest.fixture
def rows():
    return TextRows.of([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], pad_id=99, source="a test")


def test_rows_are_padded_on_the_right_and_the_pads_are_masked(rows):
    assert rows.ids.tolist()[1] == [4, 5, 99, 99]
    assert rows.mask.tolist()[1] == [True, True, False, False]
    assert rows.ids.dtype is torch.int64 and rows.mask.dtype is torch.bool
    assert rows.about["source"] == "a test"
    assert (rows.about["rows"], rows.about["tokens"], rows.tokens) == (4, 10, 10)


def test_position_0_and_the_pads_are_not_scored(rows):
    assert rows.scored.sum(1).tolist() == [2, 1, 3, 0]
    assert not rows.scored[:, 0].any()
    assert rows.mask[:, 0].all(), "the mask itself is left as it is"


def test_the_hash_is_of_the_tokens_and_not_of_the_padding(rows):
    again = TextRows.of([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], pad_id=0)
    moved = TextRows.of([[1, 2], [3, 4, 5], [6, 7, 8, 9], [10]], pad_id=0)
    assert again.about["sha256"] == rows.about["sha256"] != moved.about["sha256"]


def test_a_split_shares_out_whole_rows(rows):
    kept, held = rows.split(0.25, seed=3)
    real = [
        r[m].tolist() for part in (kept, held) for r, m in zip(part.ids, part.mask, strict=True)
    ]
    assert len(held.ids) == 1
    assert sorted(real) == [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]]
    assert kept.about["part"] == "kept" and held.about["rows"] == 1
    assert kept.about["tokens"] + held.about["tokens"] == 10
    again = rows.split(0.25, seed=3)[1]
    assert torch.equal(again.ids, held.ids)
    assert len({int(rows.split(0.25, seed=s)[1].ids[0, 0]) for s in range(8)}) > 1


def test_a_split_leaves_neither_part_empty(rows):
    assert [len(part.ids) for part in rows.split(0.01, seed=0)] == [3, 1]
    assert [len(part.ids) for part in rows.split(0.99, seed=0)] == [1, 3]
    with pytest.raises(UsageError, match="1 rows of text cannot be split"):
        TextRows.of([[1, 2]]).split(0.5, seed=0)


def test_batches_are_consecutive_and_no_wider_than_they_must_be(rows):
    first, second = rows.batches(2)
    assert first.ids.tolist() == [[1, 2, 3], [4, 5, 99]]
    assert second.mask.sum(1).tolist() == [4, 1]
    assert [batch.ids.shape[1] for batch in rows.batches(1)] == [3, 2, 4, 1]
