"""Which teacher's block each of the student's answers to."""

import json

import pytest

from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.train.depth import (
    matched_blocks,
    recorded_blocks,
    recorded_order,
    text_stack,
)
from tests.train.tools import subject


def test_equal_depths_pair_block_by_block():
    assert matched_blocks(3, 3, None) == [(0, 0), (1, 1), (2, 2)]


def test_the_seam_answers_to_the_last_of_the_blocks_that_were_cut():
    assert matched_blocks(4, 6, [0, 1, 4, 5]) == [(0, 0), (1, 3), (2, 4), (3, 5)]


def test_blocks_cut_at_the_end_are_the_last_block_s_to_make_up_for():
    assert matched_blocks(2, 4, [0, 1]) == [(0, 0), (1, 3)]


def test_zero_blocks_answer_to_nothing():
    assert matched_blocks(4, 3, [0, None, 1, 2]) == [(0, 0), (2, 1), (3, 2)]


@pytest.mark.parametrize(
    ("student", "teacher", "order", "said"),
    [
        (3, 4, None, "no surgery.json"),
        (3, 4, [0, 1], "lists 2 blocks"),
        (3, 4, [0, 2, 1], "repeats or reorders"),
        (3, 4, [0, 1, 1], "repeats or reorders"),
        (3, 3, [0, 1, 5], "repeats or reorders"),
    ],
)
def test_what_cannot_be_paired_is_refused(student, teacher, order, said):
    with pytest.raises(UsageError, match=said):
        matched_blocks(student, teacher, order)


def test_the_order_is_read_from_the_papers(tmp_path):
    assert recorded_order(tmp_path, 3) is None
    papers = tmp_path / "surgery.json"
    papers.write_text(json.dumps({"blocks": {"before": 3, "order": [0, "zero", 2]}}))
    assert recorded_order(tmp_path, 3) == [0, None, 2]
    papers.write_text(json.dumps({"command": "convert"}))
    assert recorded_order(tmp_path, 3) is None and recorded_blocks(tmp_path) is None
    papers.write_text(json.dumps({"blocks": {"order": "first to last"}}))
    with pytest.raises(UsageError, match="order of blocks that is none"):
        recorded_order(tmp_path, 3)
    papers.write_text(json.dumps({"blocks": {"before": 9, "order": [0, 2]}}))
    with pytest.raises(UsageError, match="a source with 9 blocks, the teacher has 3"):
        recorded_order(tmp_path, 3)  # cut twice: the numbers are those of the model in between
    papers.write_text("{")
    with pytest.raises(UsageError, match=r"surgery\.json beside the model"):
        recorded_order(tmp_path, 3)


def test_the_text_s_stack_is_found_by_its_head(tiny):
    assert text_stack(subject(tiny("gpt2")).examination).name == "transformer.h"
    assert text_stack(subject(tiny("llama")).examination).name == "model.layers"


def test_a_model_that_predicts_no_next_token_is_no_subject(tiny):
    with pytest.raises(UnsupportedModelError, match="BertForMaskedLM does not predict the next"):
        subject(tiny("bert"))
    with pytest.raises(UnsupportedModelError, match="MBartForConditionalGeneration"):
        subject(tiny("mbart"))
