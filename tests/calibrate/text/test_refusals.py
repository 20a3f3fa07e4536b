"""Sources that cannot be read: each refusal names the file, the place in it and what is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from normsurgery.errors import CheckpointError, UsageError
from tests.calibrate.conftest import TALK, TEMPLATE, load


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


@pytest.mark.parametrize(("data", "module"), [("a.parquet", "pyarrow"), ("owner/name", "datasets")])
def test_a_library_that_is_not_installed(build, tmp_path, monkeypatch, data, module):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=f"needs .*{module}") as raised:
        load(build(), str(tmp_path / data) if data == "a.parquet" else data)
    assert raised.value.hint == "pip install normsurgery[data]"


CHILD = """
import json, sys
from pathlib import Path
from normsurgery.calibrate.text.sources import load_rows
from normsurgery.errors import SurgeryError
said = []
for data in sys.argv[2:]:
    try:
        load_rows(Path(sys.argv[1]), data=data, tokens=100, max_length=16)
    except SurgeryError as error:
        said.append([type(error).__name__, error.message, error.hint])
print(json.dumps(said))
"""


class NothingHere(BaseHTTPRequestHandler):
    """A Hub without a single repository."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def empty_hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), NothingHere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def asked(model, tmp_path, *data, **environment):
    """What a process whose environment is this one with changes says of each data set."""
    variables = {**os.environ, "HF_HOME": str(tmp_path / "home"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(model), *data],
        env=variables, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_data_set_that_the_hub_does_not_have(build, tmp_path, empty_hub):
    pytest.importorskip("datasets")
    hub = {"HF_ENDPOINT": empty_hub, "HF_HUB_OFFLINE": "0"}
    (kind, message, hint), (_, _, spelling) = asked(
        build(), tmp_path, "owner/nothing", "nothing", **hub
    )
    assert kind == "UsageError" and "there is no data set owner/nothing" in message
    assert "HF_TOKEN" in hint
    assert "owner/name[:config][@split]" in spelling


def test_a_data_set_while_offline(build, tmp_path):
    pytest.importorskip("datasets")
    ((kind, message, hint),) = asked(build(), tmp_path, "owner/nothing:en@test", HF_HUB_OFFLINE="1")
    assert kind == "HubError" and "owner/nothing:en@test" in message
    assert "HF_HUB_OFFLINE" in hint
