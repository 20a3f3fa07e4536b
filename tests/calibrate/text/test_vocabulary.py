"""Tokens that a text never shows: counted by hand on a tokenizer of ten words."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from normsurgery.calibrate.text.rows import TextRows
from normsurgery.calibrate.text.vocabulary import holes_note, vocabulary_holes

WORDS = ["<pad>", "</s>", "a", "b", "c", "d", " ", "e", "f", "g"]


@pytest.fixture
def tokenizer():
    model = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="</s>")
    bare = Tokenizer(model)
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", eos_token="</s>")


def test_holes_are_the_words_that_no_row_shows(tokenizer):
    rows = TextRows.of([[2, 3, 1, 2], [3, 7]], pad_id=4)  # the pad is "c", which is no showing
    holes = vocabulary_holes(rows, tokenizer, 12)
    assert holes["size"] == 8 and holes["beyond"] == 2
    assert (holes["shown"], holes["missing"], holes["share"]) == (3, 5, 5 / 8)
    texts = [one["text"] for one in holes["examples"]]
    assert texts == ["c", "d", "f", "g"]  # a blank shows nothing to a reader
    assert [one["id"] for one in holes["examples"]] == [4, 5, 8, 9]


def test_ids_beyond_the_model_s_table_do_not_count(tokenizer):
    holes = vocabulary_holes(TextRows.of([[2, 3]]), tokenizer, 5)
    assert (holes["size"], holes["missing"], holes["beyond"]) == (3, 1, 0)


def test_as_many_examples_as_asked_for(tokenizer):
    holes = vocabulary_holes(TextRows.of([[2, 3]]), tokenizer, 10, examples=2)
    assert [one["text"] for one in holes["examples"]] == ["c", "d"]


def test_a_warning_says_how_many_and_which(tokenizer):
    note = holes_note(vocabulary_holes(TextRows.of([[2, 3, 4]]), tokenizer, 10))
    assert note is not None and "5 of 8 tokens" in note and "62.5 %" in note and "'d'" in note


def test_a_text_that_shows_everything_gives_no_warning(tokenizer):
    holes = vocabulary_holes(TextRows.of([list(range(10))]), tokenizer, 10)
    assert holes["missing"] == 0 and holes["examples"] == [] and holes_note(holes) is None
