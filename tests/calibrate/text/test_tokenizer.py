"""A long text is read once a process, and never by the wrong tokenizer."""

import json
import shutil

import pytest

from normsurgery.calibrate.text import tokenizer as module
from normsurgery.calibrate.text.tokenizer import Encoder, encode, load_tokenizer
from tests.conftest import TRAINED

LONG = "It was the best of times, it was the worst of times. " * 400


@pytest.fixture
def asked(monkeypatch):
    """The texts that the tokenizer was asked for; nothing is kept from other tests."""
    texts = []
    Encoder._read.clear()

    def asking(tokenizer, text):
        texts.append(text)
        return encode(tokenizer, text)

    monkeypatch.setattr(module, "encode", asking)
    return texts


def encoder(directory):
    return Encoder(load_tokenizer(directory, trust_remote_code=False), directory)


def test_a_long_text_is_read_once_by_tokenizers_that_are_alike(asked, tmp_path):
    shutil.copytree(TRAINED, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("{}")
    expected = encode(load_tokenizer(TRAINED, trust_remote_code=False), LONG)
    assert list(encoder(TRAINED).encode(LONG)) == expected
    assert list(encoder(tmp_path / "copy").encode(LONG)) == expected
    assert asked == [LONG]


def test_a_short_text_is_not_kept(asked):
    one = encoder(TRAINED)
    assert one.encode("a rose") == one.encode("a rose")
    assert asked == ["a rose"] * 2


def test_another_vocabulary_reads_for_itself(asked, tmp_path):
    shutil.copytree(TRAINED, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:100]
    file.write_text(json.dumps(content))
    first, second = (encoder(where).encode(LONG) for where in (TRAINED, tmp_path / "other"))
    assert first != second and len(asked) == 2


def test_foreign_code_is_asked_every_time(asked):
    class Foreign:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": [len(asked)]}

    one = Encoder(Foreign(), TRAINED)
    assert one.encode(LONG) != one.encode(LONG)


def test_few_texts_are_kept(asked):
    one = encoder(TRAINED)
    for number in range(Encoder._KEPT + 1):
        one.encode(f"{number} {LONG}")
    one.encode(f"0 {LONG}")
    assert len(Encoder._read) == Encoder._KEPT and len(asked) == Encoder._KEPT + 2
