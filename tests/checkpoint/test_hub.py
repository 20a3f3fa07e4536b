"""The real Hub client in a child process, against a server of ours on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from normsurgery.checkpoint.hub import needed, parse_id
from normsurgery.errors import CheckpointError
from tests.checkpoint.conftest import SIDE_FILES, save, tree, two_shards

COMMIT, OLD_COMMIT = "a" * 40, "b" * 40
NOT_WANTED = {
    "pytorch_model.bin": b"pickle",
    "tf_model.h5": b"h5",
    "flax_model.msgpack": b"msgpack",
    "onnx/model.onnx": b"onnx",
    "model-q4.gguf": b"gguf",
    ".gitattributes": b"lfs",
    "weights[1].safetensors": b"not these",
}

CHILD = """
import json, struct, sys, warnings
from pathlib import Path
warnings.simplefilter("error")
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import SurgeryError
try:
    model = open_checkpoint(sys.argv[1], allow_pickle="pickle" in sys.argv)
    print(json.dumps({
        "model_id": model.model_id, "revision": model.revision, "tensors": sorted(model),
        "side_files": model.side_files, "directory": str(model.directory),
        "files": sorted(p.relative_to(model.directory).as_posix()
                        for p in model.directory.rglob("*") if p.is_file()),
        "scale": struct.unpack("<f", b"".join(model["scale"].chunks(4)))[0],
    }))
except SurgeryError as error:
    print(json.dumps({"exit_code": error.exit_code, "message": error.message, "hint": error.hint}))
"""


@dataclass
class Hub:
    """What the server knows and has been asked."""

    url: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "v1": OLD_COMMIT})
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            return self._api("/".join(parts[2:4]), parts[4:])
        if len(parts) > 4 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return 404, {}, b""

    def _files(self, name: str, revision: str) -> tuple[int, str] | dict[str, bytes]:
        if name in self.errors:
            return self.errors[name]
        if name not in self.repositories:
            return 404, "RepoNotFound"
        commit = self.branches.get(revision, revision)
        return self.repositories[name].get(commit, (404, "RevisionNotFound"))

    def _api(self, name: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        revision = rest[1] if len(rest) > 1 else "main"
        files = self._files(name, revision)
        if isinstance(files, tuple):
            return files[0], {"X-Error-Code": files[1]}, b"{}"
        body: Any = [
            {"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
            for p, d in files.items()
        ]
        if not rest or rest[0] == "revision":
            sha = self.branches.get(revision, revision)
            body = {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]}
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def _file(self, name: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        files = self._files(name, revision)
        if isinstance(files, tuple) or path not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        etag = hashlib.sha1(files[path]).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": revision}, files[path]


@pytest.fixture
def hub() -> Iterator[Hub]:
    known = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(with_body=True)

        def do_HEAD(self) -> None:
            self.reply(with_body=False)

        def reply(self, *, with_body: bool) -> None:
            path = urlsplit(self.path).path
            status, headers, body = known.answer(path)
            if with_body and "/resolve/" in path:
                known.downloads.append(unquote(path.split("/resolve/")[1].split("/", 1)[1]))
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        known.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield known
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Client:
    """Runs `open_checkpoint` in a child with its own cache."""

    home: Path
    url: str

    def open(self, model: str, *arguments: str, **environment: str) -> dict[str, Any]:
        settings = {
            "HF_ENDPOINT": self.url, "HF_HOME": str(self.home), "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "",
            "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", CHILD, model, *arguments],
            env={**os.environ, **settings, **environment},
            capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(tmp_path / "hf", hub.url)


@pytest.fixture
def served(hub: Hub, tmp_path: Path) -> dict[str, bytes]:
    """`org/model` with two commits; only the newer one is in shards."""
    new = tree(save(tmp_path / "new", two_shards()))
    old = tree(save(tmp_path / "old"))
    hub.repositories["org/model"] = {COMMIT: {**new, **NOT_WANTED}, OLD_COMMIT: old}
    return new


def test_a_snapshot_has_what_is_needed_and_nothing_else(
    hub: Hub, client: Client, served: dict[str, bytes]
) -> None:
    found = client.open("org/model")
    assert found["model_id"] == "org/model"
    assert found["revision"] == COMMIT
    assert found["files"] == sorted(served)
    assert found["side_files"] == sorted(SIDE_FILES)
    assert found["scale"] == 3.5
    assert set(hub.downloads) == set(served)
    for name, data in served.items():
        assert (Path(found["directory"]) / name).read_bytes() == data


def test_a_revision_is_resolved_to_its_commit(client: Client, served: dict[str, bytes]) -> None:
    for revision in ("v1", OLD_COMMIT):
        found = client.open(f"org/model@{revision}")
        assert (found["model_id"], found["revision"]) == ("org/model", OLD_COMMIT)
        assert "model.safetensors" in found["files"]


def test_a_second_time_nothing_is_downloaded_and_offline_works(
    hub: Hub, client: Client, served: dict[str, bytes]
) -> None:
    first = client.open("org/model")
    hub.downloads.clear()
    assert client.open("org/model") == first
    assert hub.downloads == []
    assert client.open("org/model", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9") == first


def test_a_branch_that_moves_is_followed(
    hub: Hub, client: Client, served: dict[str, bytes]
) -> None:
    assert client.open("org/model")["revision"] == COMMIT
    hub.branches["main"] = OLD_COMMIT
    assert client.open("org/model")["revision"] == OLD_COMMIT


def test_pickles_are_fetched_only_when_allowed(hub: Hub, client: Client, tmp_path: Path) -> None:
    import torch

    torch.save({"scale": torch.tensor(2.5)}, tmp_path / "pytorch_model.bin")
    data = (tmp_path / "pytorch_model.bin").read_bytes()
    hub.repositories["org/old"] = {
        COMMIT: {"config.json": b'{"model_type": "toy"}', "pytorch_model.bin": data}
    }
    refused = client.open("org/old")
    assert refused["exit_code"] == 3
    assert "pickle" in refused["message"]
    assert hub.downloads == []
    assert client.open("org/old", "pickle")["scale"] == 2.5


def test_an_adapter_is_recognised_without_its_weights(hub: Hub, client: Client) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(100)}
    hub.repositories["org/lora"] = {COMMIT: files}
    found = client.open("org/lora")
    assert found["exit_code"] == 3
    assert "org/lora is a PEFT adapter" in found["message"]
    assert hub.downloads == []


@pytest.mark.parametrize("suffix", ["gguf", "h5"])
def test_other_formats_are_recognised_without_download(
    hub: Hub, client: Client, suffix: str
) -> None:
    hub.repositories["org/other"] = {COMMIT: {"config.json": b"{}", f"model.{suffix}": bytes(99)}}
    found = client.open("org/other")
    assert found["exit_code"] == 3
    assert f"model.{suffix}" in found["message"]
    assert hub.downloads == []


REFUSALS = {
    "gated": ((403, "GatedRepo"), "gated", "huggingface.co/org/gated"),
    "private": ((401, "RepoNotFound"), "not on the Hub", "HF_TOKEN"),
    "broken": ((500, ""), "answered 500", "HF_HUB_OFFLINE"),
    "teapot": ((418, ""), "answered 418", "HF_ENDPOINT"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_hub_refuses(hub: Hub, client: Client, name: str) -> None:
    answer, words, hint = REFUSALS[name]
    hub.errors[f"org/{name}"] = answer
    found = client.open(f"org/{name}")
    assert found["exit_code"] == 7
    assert words in found["message"]
    assert f"org/{name}" in found["message"]
    assert hint in found["hint"]


def test_an_absent_repository_and_an_absent_revision(
    client: Client, served: dict[str, bytes]
) -> None:
    absent, revision = client.open("org/absent"), client.open("org/model@v9")
    assert absent["exit_code"] == revision["exit_code"] == 7
    assert "org/absent is not on the Hub" in absent["message"]
    assert "org/model has no revision v9" in revision["message"]


def test_an_empty_repository(hub: Hub, client: Client) -> None:
    hub.repositories["org/empty"] = {COMMIT: {}}
    found = client.open("org/empty")
    assert found["exit_code"] == 3
    assert "org/empty holds no weights" in found["message"]


def test_offline_without_a_cached_copy(client: Client) -> None:
    found = client.open("org/model", HF_HUB_OFFLINE="1")
    assert found["exit_code"] == 7
    assert "HF_HUB_OFFLINE" in found["message"]


def test_nobody_listens(client: Client) -> None:
    found = client.open("org/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert found["exit_code"] == 7
    assert "could not be reached" in found["message"]


def test_an_endpoint_that_is_no_url(client: Client) -> None:
    found = client.open("org/model", HF_ENDPOINT="nonsense")
    assert found["exit_code"] == 7


@pytest.mark.parametrize("model", ["a/b/c", "a b", "../x", "-o", "a@b@c", "org/name@", "~x/y"])
def test_what_is_no_id(model: str) -> None:
    with pytest.raises(CheckpointError, match="neither a directory nor a Hub id"):
        parse_id(model)


def test_ids() -> None:
    assert parse_id("gpt2") == ("gpt2", None)
    assert parse_id("org/name@refs/pr/1") == ("org/name", "refs/pr/1")


def test_what_is_needed_of_a_listing() -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    both = ["config.json", "model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"]
    assert needed(both, allow_pickle=True) == ["config.json", "model.safetensors"]
    index = "model.safetensors.index.json"
    assert needed([index, *shards, "README.md"], allow_pickle=False) == sorted(
        [index, *shards, "README.md"]
    )
    bins = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"]
    assert needed(bins, allow_pickle=True) == sorted(bins)
    assert needed(bins, allow_pickle=False) == []
