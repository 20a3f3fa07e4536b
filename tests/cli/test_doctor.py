"""`doctor` end to end: on this machine, and where libraries are broken."""

import json
import sys

import pytest

import normsurgery
from normsurgery.cli import main
from tests.report.test_render import shown


def test_doctor_reports_on_this_installation_and_leaves_with_0(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == "" and "hf_verysecret" not in out
    assert document["token"] is True and document["environment"]["HF_HOME"] == str(tmp_path)
    versions = {one["name"]: one["version"] for one in document["libraries"]}
    assert versions["torch"] and versions["transformers"]
    assert any("HF_HUB_OFFLINE" in one["what"] for one in document["problems"])
    text = shown(document)
    assert "HF_HUB_OFFLINE" in text and "Problems" in text
    assert shown({**document, "problems": []}).count("no known problem") == 1


def test_a_broken_library_is_a_problem_and_not_a_failure(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "does not import" in out


def test_a_torchvision_for_another_torch_is_found(monkeypatch, tmp_path):
    (tmp_path / "torchvision").mkdir()
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")'
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    (tmp_path / "torchvision-0.2.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.2\n"
    (tmp_path / "torchvision-0.2.dist-info" / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    found = [one["what"] for one in normsurgery.doctor().to_dict()["problems"]]
    assert any(x.startswith("torchvision 0.2 does not import beside torch 2") for x in found)


def test_a_report_fits_the_terminal_even_with_long_problems():
    document = {
        "command": "doctor", "version": "0", "python": "3.11", "platform": "P", "cpus": 2,
        "memory": {"bytes": None, "free": None}, "seconds": 1.0, "token": False,
        "torch": {"cuda": "13.0", "mps": False, "threads": None, "error": None, "devices": [
            {"device": "cuda:0", "name": "GPU", "bytes": 2**34, "free": 2**33}]},
        "disks": [{"what": "Hub cache", "path": "/" + "d" * 90, "free": None, "writable": True}],
        "libraries": [{"name": "timm", "version": None, "extra": "timm", "error": None,
                       "install": 'pip install "normsurgery[timm]"'}],
        "environment": {"HF_HOME": "/x"}, "problems": [{"what": "w" * 90, "hint": "h" * 90}],
    }  # fmt: skip
    text = shown(document)
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "8.0 GiB of 16 GiB free" in text and "not installed" in text


@pytest.mark.parametrize("given", ["--strict", "--halth"])
def test_what_doctor_does_not_know_is_refused(given, capsys):
    assert main(["doctor", given]) == 2
