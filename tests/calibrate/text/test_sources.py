"""Text in, rows out: real files, a real directory of a data set, real tokenizers."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import AutoTokenizer

from normsurgery.calibrate.text import documents
from normsurgery.errors import UsageError
from tests.calibrate.conftest import BOS, EOS, LINES, PAD, TALK, TEMPLATE, load, save


def real(rows):
    return [row[mask].tolist() for row, mask in zip(rows.ids, rows.mask, strict=True)]


def decoded(model, rows):
    return AutoTokenizer.from_pretrained(model).decode(list(itertools.chain(*real(rows))))


def test_a_text_file_is_one_text_packed_into_rows(build, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    model = build()
    rows = load(model, str(path))
    assert decoded(model, rows) == "\n".join(LINES)
    assert rows.mask.sum(1)[:-1].eq(16).all() and EOS not in rows.ids[rows.mask]
    assert rows.about["source"] == "long.txt", "no local path"
    assert rows.about["notes"] == [f"1,000,000 tokens were asked for, long.txt gives {rows.tokens}"]


def test_documents_are_packed_with_the_end_token_between_and_bos_before_each_row(build, tmp_path):
    model = build(bos=True)
    data = save(tmp_path / "lines.jsonl", [{"text": line} for line in [LINES[0], " ", *LINES[1:]]])
    rows = load(model, data)
    assert rows.ids[:, 0].eq(BOS).all()
    bodies = list(itertools.chain(*(row[1:] for row in real(rows))))
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [list(group) for end, group in itertools.groupby(bodies, EOS.__eq__) if not end]
    assert [tokenizer.decode(text) for text in texts] == LINES
    assert bodies.count(EOS) == 2
    assert rows.ids[~rows.mask].eq(PAD).all()


def test_no_end_token_is_made_up(build, tmp_path):
    model = build(eos=False)
    rows = load(model, save(tmp_path / "lines.jsonl", [{"text": line} for line in LINES]))
    assert decoded(model, rows) == "".join(LINES)


def test_a_long_text_is_tokenized_in_pieces_that_lose_nothing(build, tmp_path, monkeypatch):
    text = "\n\n".join(f"{line} {i}" for i in range(40) for line in LINES) + "x" * 700
    path = tmp_path / "long.txt"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(documents, "_PIECE", 300)
    model = build()
    pieces = list(documents.file_documents(path, "text").items)
    assert "".join(str(piece.content) for piece in pieces) == text
    assert max(len(piece.content) for piece in pieces) <= 300
    assert all(str(piece.content).endswith("\n\n") for piece in pieces[:20])
    rows = load(model, str(path))
    assert decoded(model, rows) == text and EOS not in rows.ids[rows.mask]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_give_the_same_rows_as_json_lines(build, tmp_path, kind):
    model = build()
    expected = load(
        model, save(tmp_path / "a.jsonl", [{"body": t} for t in LINES]), text_column="body"
    )
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text("id,body\n" + "\n".join(f'{i},"{t}"' for i, t in enumerate(LINES)))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = pytest.importorskip("pyarrow").table({"id": [0, 1, 2], "body": LINES})
        parquet.write_table(table, path, row_group_size=1)
    rows = load(model, str(path), text_column="body")
    assert torch.equal(rows.ids, expected.ids)
    assert rows.about["sha256"] == expected.about["sha256"]


def test_a_directory_in_a_data_set_s_layout_is_streamed(build, tmp_path):
    pytest.importorskip("datasets")
    model, folder = build(), tmp_path / "set"
    folder.mkdir()
    save(folder / "train.jsonl", [{"text": line} for line in LINES])
    save(folder / "test.jsonl", [{"text": LINES[0]}])
    one = load(model, str(folder))
    assert one.about["source"] == "set@train"
    assert decoded(model, one) == "</s>".join(LINES)
    assert decoded(model, load(model, f"{folder}@test")) == LINES[0]


@pytest.mark.parametrize(
    ("suffix", "message", "hint"),
    [
        ("@tran", "Bad split: tran", "did you mean train"),
        (":other", "'other' not found", "owner/name"),
    ],
)
def test_a_split_or_configuration_that_is_not_there(build, tmp_path, suffix, message, hint):
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    save(folder / "train.jsonl", [{"text": line} for line in LINES])
    with pytest.raises(UsageError, match=message) as raised:
        load(build(), f"{folder}{suffix}")
    assert hint in raised.value.hint


def test_a_data_set_s_missing_column_and_empty_folder(build, tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    with pytest.raises(UsageError, match="data set set@train"):
        load(build(), str(folder))
    save(folder / "train.jsonl", [{"content": line} for line in LINES])
    with pytest.raises(UsageError, match="set@train, row 1 has no column 'text'; it has content"):
        load(build(), str(folder))


def test_conversations_go_through_the_model_s_template_a_row_each(build, tmp_path):
    model = build(bos=True, template=TEMPLATE)
    data = save(tmp_path / "talks.jsonl", [{"messages": TALK}, {"messages": TALK[:1]}])
    rows = load(model, data, max_length=64)
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [tokenizer.decode(row) for row in real(rows)]
    assert texts == [
        "<s>user: the quick brown fox</s><s>assistant: jumps over the lazy dog</s>",
        "<s>user: the quick brown fox</s>",
    ]
    assert rows.mask[1].sum() < rows.mask[0].sum() == rows.ids.shape[1]


def test_a_long_conversation_is_cut_and_the_cut_is_told(build, tmp_path):
    data = save(tmp_path / "talks.jsonl", [{"talk": TALK}, {"talk": TALK[:1]}])
    rows = load(build(template=TEMPLATE), data, text_column="talk", max_length=20)
    assert rows.ids.shape == (2, 20)
    assert "1 conversations were cut at 20 tokens" in rows.about["notes"]


@pytest.mark.parametrize("name", documents.SAMPLES)
def test_the_bundled_samples_are_large_and_plain(name):
    (text,) = ["".join(str(d.content) for d in documents.sample(name).items)]
    assert len(text) > {"prose": 800_000, "drama": 150_000}[name]
    assert sum((c.isascii() and c.isprintable()) or c == "\n" for c in text) > 0.999 * len(text)
    assert not {"gutenberg", "copyright", "etext9"} & set(text.lower().split())


def test_the_bundled_prose_by_default_and_the_other_domain_by_name(build):
    model = build()
    prose = load(model, None, tokens=500, max_length=None)
    assert prose.ids.shape == (8, 64), "whole rows of the model's context"
    assert prose.about["notes"] == []
    assert decoded(model, prose) in documents_text("prose")
    assert decoded(model, load(model, "sample:drama", tokens=100)) in documents_text("drama")


def documents_text(name):
    return "".join(str(document.content) for document in documents.sample(name).items)


@pytest.mark.parametrize("seed", [0, 7])
def test_skipping_what_another_call_took_gives_other_rows(build, seed):
    model = build()
    everything, first, second = (
        load(model, None, tokens=tokens, skip_tokens=skip, seed=seed)
        for tokens, skip in ((600, 0), (300, 0), (300, 300))
    )
    assert real(first) + real(second) == real(everything)
    again = load(model, None, tokens=300, seed=seed)
    assert again.about == first.about and torch.equal(again.ids, first.ids)


def test_the_seed_chooses_rows(build):
    model = build()
    assert not torch.equal(*(load(model, None, tokens=300, seed=seed).ids for seed in (0, 1)))


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": None, "n_positions": 48}, 48),
        ({"text_config": {"max_position_embeddings": 24}}, 24),
        ({"max_position_embeddings": 100_000}, 2048),
        ({"max_position_embeddings": -1}, 2048),
    ],
)
def test_rows_are_as_long_as_the_model_reads(build, config, length):
    assert load(build(**config), None, tokens=9000, max_length=None).ids.shape[1] == length


def test_a_tokenizer_s_own_limit_is_the_default_and_not_a_bound(build):
    model = build(max_position_embeddings=128)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.model_max_length = 32
    tokenizer.save_pretrained(model)
    assert load(model, None, tokens=500, max_length=None).ids.shape[1] == 32
    assert load(model, None, tokens=500, max_length=100).ids.shape[1] == 100


def test_only_the_column_of_the_text_is_read_from_parquet(build, tmp_path):
    pyarrow, parquet = (pytest.importorskip(m) for m in ("pyarrow", "pyarrow.parquet"))
    path = tmp_path / "wide.parquet"
    table = pyarrow.table({"text": LINES, "picture": [bytes(64)] * 3, "messages": [None] * 3})
    parquet.write_table(table, path, compression="none", use_dictionary=False)
    data = path.read_bytes()
    start = data.index(bytes(64))
    path.write_bytes(data[: start - 20] + b"\xff" * 84 + data[start + 64 :])
    with pytest.raises(OSError):
        parquet.read_table(path)
    model = build()
    assert decoded(model, load(model, str(path))) == "</s>".join(LINES)
