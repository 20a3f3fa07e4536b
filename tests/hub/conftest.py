"""A Hub on the loopback interface, with the real client pointed at it, and an output to push."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.client import point_at
from tests.hub.server import Hub, serving

WEIGHTS = bytes(range(256)) * 40
FILES = {
    "model.safetensors": WEIGHTS,
    "config.json": b'{"model_type": "gpt2"}',
    "tokenizer.json": b"{}",
    "assets/picture.png": b"png" * 100,
}
CARD = "---\nlicense: mit\ntags:\n- normsurgery\n---\n\n# A model\n\nSaid in full.\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server; every request of huggingface_hub in this process goes there, with a token."""
    with serving() as known:
        point_at(known.url, monkeypatch, tmp_path)
        yield known


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that anything in this process would have slept."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A directory as our commands write it, verified."""
    return write_output(tmp_path / "out")


def write_output(
    where: Path,
    verdict: str | None = "pass",
    card: str = CARD,
    more: dict[str, bytes] | None = None,
) -> Path:
    """Files with their hashes in surgery.json, and a card."""
    files = {**FILES, **(more or {})}
    for name, data in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    papers = {
        "command": "convert",
        "source": {"model": "gpt2", "revision": None},
        "verification": {"verdict": verdict, "contract": "exact"} if verdict else None,
        "files": {"source": {}, "result": hashes},
    }
    (where / "surgery.json").write_text(json.dumps(papers))
    (where / "README.md").write_text(card)
    return where


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }
