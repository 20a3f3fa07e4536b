"""Text in, rows out: real files, a real directory of a data set, real tokenizers."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from transformers import AutoTokenizer

from normsurgery.calibrate import documents
from normsurgery.calibrate.sources import load_rows
from normsurgery.errors import CheckpointError, UsageError
from tests.calibrate.conftest import BOS, EOS, LINES, PAD, TEMPLATE

MANY = 10**6


def real(rows):
    return [row[mask].tolist() for row, mask in zip(rows.ids, rows.mask, strict=True)]


def decoded(model, rows):
    return AutoTokenizer.from_pretrained(model).decode(list(itertools.chain(*real(rows))))


def save(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def load(model, data, **options):
    return load_rows(model, **{"data": data, "tokens": MANY, "max_length": 16, **options})


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


TALK = [
    {"role": "user", "content": "the quick brown fox"},
    {"role": "assistant", "content": "jumps over the lazy dog"},
]


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


@pytest.mark.parametrize(
    ("content", "options", "message", "hint"),
    [
        ('{"text": "a b"}\n{"text": ', {}, r"bad.jsonl, line 2 is not JSON", "one JSON object"),
        ("[1]", {}, r"bad.jsonl, line 1 is not a JSON object but a list", "one object a line"),
        (
            '\n{"txt": "a", "n": 1}',
            {},
            "line 2 has no column 'text'; it has txt, n",
            "mean --text-column txt",
        ),
        ('{"text": 3}', {}, "column 'text' holds int", "--text-column: text"),
        ('{"text": [{"role": "user"}]}', {}, "column 'text' holds list", "--text-column"),
        ('{"text": ""}', {}, "bad.jsonl holds no text", "more text"),
        ("", {}, "bad.jsonl holds no text", "more text"),
        (
            '{"text": "a b c"}',
            {"skip_tokens": 50},
            "no text beyond its first 50 tokens",
            "more text",
        ),
        (
            json.dumps({"messages": TALK}),
            {},
            "line 1 is a conversation, and .* no chat template",
            "plain text",
        ),
        (
            json.dumps({"messages": TALK}) + '\n{"text": "a"}',
            {"template": TEMPLATE},
            "line 2: .* mixed",
            "two files",
        ),
        (
            '{"text": "a"}\n' + json.dumps({"messages": TALK}),
            {"template": TEMPLATE},
            "line 2: .* mixed",
            "two files",
        ),
        (
            json.dumps({"messages": [{"role": "judge", "content": "?"}]}),
            {"template": TEMPLATE},
            "line 1: .*only user and assistant speak",
            "roles",
        ),
        (
            '{"text": "a"}',
            {"max_length": 65},
            "longer than the 64 that the model reads",
            "--max-length 64",
        ),
        (
            '{"text": "a"}',
            {"max_length": 1, "bos": True},
            "hold no text: 1 are special",
            "raise --max-length",
        ),
        ('{"text": "a"}', {"tokens": 1}, "1 tokens are too few", "--tokens"),
        ('{"text": "The quick"}', {"vocab_size": 9}, "vocabulary has 9", "not the model's"),
    ],
)
def test_errors_name_the_line_and_what_is_there(build, tmp_path, content, options, message, hint):
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    made = {key: options.pop(key) for key in ("template", "bos", "vocab_size") if key in options}
    with pytest.raises(UsageError, match=message) as raised:
        load(build(**made), str(path), **options)
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bytes.txt", b"\xff\xfe\x00", "cannot be read as text"),
        ("lines.jsonl", b'{"text": "\xff"}', "cannot be read as jsonl"),
        ("table.parquet", b"PAR1 not really", "cannot be read as parquet"),
        ("table.csv", b'text\n"a"b"', "cannot be read as csv"),
        ("whole.json", b"{}", "is one JSON document"),
    ],
)
def test_damaged_files(build, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(UsageError, match=message):
        load(build(), str(tmp_path / name))


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ("lnes.txt", "there is no file .*lnes.txt", "lines.txt"),
        ("sample:poems", "no bundled sample 'poems'", "prose, drama"),
        (
            "what is this?",
            "neither a file, nor a directory, nor the id",
            "owner/name[:config][@split]",
        ),
    ],
)
def test_sources_that_do_not_exist(build, tmp_path, data, message, hint):
    (tmp_path / "lines.txt").write_text("x")
    asked = str(tmp_path / data) if data.endswith("txt") else data
    with pytest.raises(UsageError, match=message) as raised:
        load(build(), asked)
    assert hint in raised.value.hint


def test_a_model_without_tokenizer_or_config(build, tmp_path):
    model = build()
    (tmp_path / "bare").mkdir()
    with pytest.raises(UsageError, match="has no tokenizer"):
        load(tmp_path / "bare", None)
    (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load(model, None)
    (model / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer of .* cannot be loaded"):
        load(model, None)


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
