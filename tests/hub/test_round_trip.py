"""From the Hub and back: a Hub id in, a surgery, a push, and the same bytes pulled again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import normsurgery
from normsurgery.checkpoint import open_checkpoint
from normsurgery.cli import main
from tests.cli.invoke import command
from tests.conftest import Tiny
from tests.hub.conftest import WEIGHTS, files_of
from tests.hub.server import TOKEN, Hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_convert_from_the_hub_push_and_pull(
    hub: Hub, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = b"---\nlicense: mit\n---\n# The source's card\n"
    source = hub.make("user/model", {**files_of(tiny("gpt2")), "README.md": card})
    out = tmp_path / "out"
    done = normsurgery.convert("user/model", out).to_dict()
    assert done["source"]["model"] == "user/model"
    assert done["source"]["revision"] == source.refs["main"]

    assert main(["push", str(out), "user/model-rms", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["licence"]["id"] == "mit" and document["left"] == []

    pulled = open_checkpoint("user/model-rms")
    assert pulled.revision == document["commit"]
    hashes = json.loads((out / "surgery.json").read_text())["files"]["result"]
    there = files_of(pulled.directory)
    card_there, card_here = there.pop("README.md"), (out / "README.md").read_bytes()
    assert there == {name: data for name, data in files_of(out).items() if name != "README.md"}
    assert card_there == card_here.replace(b"path/to/this/checkpoint", b"user/model-rms")
    assert card_there.count(b"from_pretrained('user/model-rms'") == 2
    for name, sha256 in hashes.items():
        if name != "README.md":
            assert hashlib.sha256(there[name]).hexdigest() == sha256
    assert b"base_model:\n- user/model" in card_there
    assert b"# The source's card" in card_there


def test_a_person_s_process_with_nothing_but_environment_variables(
    hub: Hub, output: Path, tmp_path: Path
) -> None:
    done = command(
        "push", str(output), "user/model",
        HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1",
        HF_HOME=str(tmp_path / "hf"), NO_PROXY="127.0.0.1",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].strip() == f"{hub.url}/user/model"
    assert hub.repositories["user/model"].files()["model.safetensors"] == WEIGHTS
