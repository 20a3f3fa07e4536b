import json

import pytest

import normsurgery
from normsurgery.cli import main
from tests.cli.invoke import ROOT, Fake
from tests.report import documents


@pytest.fixture
def remote(tmp_path, trained):
    """The shipped GPT-2 with code beside it, and a class from another repository."""
    for file in trained.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('this ran')\n", encoding="utf-8")
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {
        "AutoModelForCausalLM": "modeling_own.Own",
        "AutoTokenizer": ["other/repo--tok.Fast", None],
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


@pytest.fixture
def faked(monkeypatch):
    fake = Fake(documents.inspect_document())
    monkeypatch.setattr(normsurgery, "inspect", fake)
    return fake


def test_trusted_code_is_named_before_it_runs(remote, faked, capsys):
    assert main(["inspect", str(remote), "--trust-remote-code"]) == 0
    said = capsys.readouterr().err
    assert said == f"trusting the code of {remote}: modeling_own.py, other/repo--tok.Fast\n"


def test_nothing_is_said_without_trust_or_without_code(remote, trained, faked, capsys):
    main(["inspect", str(remote)])
    main(["inspect", str(trained), "--trust-remote-code"])
    assert capsys.readouterr().err == ""


def test_a_recipe_that_trusts_code_names_it_too(remote, monkeypatch, capsys):
    monkeypatch.setattr(normsurgery, "run", Fake(documents.convert_document()))
    recipe = str(ROOT / "recipes" / "gpt2-to-rmsnorm.yaml")
    assert main(["run", recipe, f"--set=source={remote}", "--set=trust_remote_code=true"]) == 0
    assert "modeling_own.py" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_opened_is_refused_as_ever(tmp_path, faked, capsys):
    assert main(["inspect", str(tmp_path), "--trust-remote-code"]) == 3
    assert faked.calls == []
