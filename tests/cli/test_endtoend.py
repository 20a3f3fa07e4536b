"""The program as a person runs it, on the trained GPT-2 that the project ships."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from normsurgery.cli import main
from tests.cli.invoke import ROOT, command, script

MODEL = str(ROOT / "tests" / "data" / "tiny-gpt2-6x96")
RECIPE = str(ROOT / "recipes" / "gpt2-to-rmsnorm.yaml")
TEXT = "It was the best of times, it was the worst of times. " * 20

KILLED = """
import os, signal, sys
from contextlib import contextmanager
from normsurgery.cli import main, progress

@contextmanager
def task(self, description, total, unit):
    def advance(n):
        if description == "write":
            os.kill(os.getpid(), int(sys.argv[1]))
    yield advance

progress.Bars.task = task
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, text):
    """The shipped recipe, run on the shipped model: the process and the directory it wrote."""
    out = tmp_path_factory.mktemp("run") / "out"
    sets = [f"source={MODEL}", f"output={out}", f"verify.data={text}", "device=cpu"]
    done = command("run", RECIPE, *(word for one in sets for word in ("--set", one)), "--json")
    return done, out


def test_the_shipped_recipe_makes_a_verified_checkpoint(ran):
    done, out = ran
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["command"] == "run" and document["output"] == str(out)
    assert document["verification"]["verdict"] == "pass"
    assert {"stock", "graft"} <= set(document["verification"])
    (receipt,) = document["receipts"]
    assert receipt["norms"] == {"before": {"LayerNorm": 13}, "after": {"RMSNorm": 13}}


def test_tokenizer_files_travel_byte_for_byte_and_no_path_leaks(ran):
    _, out = ran
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (Path(MODEL) / name).read_bytes()
    for name in ("README.md", "surgery.json", "config.json", "modeling_rmsnorm.py"):
        content = (out / name).read_text(encoding="utf-8")
        assert str(ROOT) not in content and str(out.parent) not in content


def test_convert_prints_a_report_that_fits_80_columns(tmp_path, text, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", MODEL, "-o", "out", "--data", text, "--device=cpu"]) == 0
    printed, said = capsys.readouterr()
    assert said == ""
    lines = printed.splitlines()
    assert lines[0] == "convert  tiny-gpt2-6x96 → out"
    assert lines[-1] == f"  normsurgery verify {MODEL} out --data held-out.txt"
    assert max(map(len, lines[:-1])) <= 80  # a line to copy is never broken
    assert any(line.startswith("logits, float32") and line.endswith("pass") for line in lines)
    assert "13 LayerNorm → 13 RMSNorm" in printed


def test_verify_passes_the_result_and_exits_6_on_a_damaged_one(ran, tmp_path, text, capsys):
    _, out = ran
    options = ["--data", text, "--tokens=128", "--device=cpu", "--json"]
    good = main(["verify", MODEL, str(out), *options])
    assert (good, capsys.readouterr().err) == (0, "")
    damaged = tmp_path / "damaged"
    shutil.copytree(out, damaged)
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[len(weights) // 2 :] = bytes(len(weights) - len(weights) // 2)
    (damaged / "model.safetensors").write_bytes(weights)
    bad = main(["verify", MODEL, str(damaged), *options])
    printed, said = capsys.readouterr()
    assert (bad, said) == (6, "")
    verification = json.loads(printed)["verification"]
    assert verification["verdict"] == "fail" and verification["reasons"]


def test_inspect_reports_the_model_in_json_and_in_words(capsys):
    assert main(["inspect", MODEL, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["source"]["parameters"] == 781_824
    assert len(document["norms"]) == 13
    assert main(["inspect", MODEL, "--health"]) == 0
    words, said = capsys.readouterr()
    assert said == ""
    assert "transformer.h.{0-5}.ln_1" in words
    assert "every value is finite" in words


def test_a_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", RECIPE, "--set", f"source={MODEL}", "--dry-run"]) == 0
    printed, said = capsys.readouterr()
    assert said == "" and "nothing written (dry run)" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["convert", MODEL, "-o", "taken"], 2, "exists already"),
        (["convert", "empty", "-o", "out"], 3, "empty"),
        (["convert", "owner/name", "-o", "out"], 7, "owner/name"),
        (["run", "recipe.yaml"], 2, "did you mean source?"),
    ],
)
def test_refusals_have_their_exit_code_and_leave_no_trace(
    tmp_path, monkeypatch, capsys, arguments, code, message
):
    (tmp_path / "taken").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "recipe.yaml").write_text("sorce: a\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    printed, said = capsys.readouterr()
    assert printed == "" and message in said and "Traceback" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupt_while_writing_leaves_no_trace(tmp_path):
    number = str(int(signal.SIGINT))
    process = script(KILLED, number, "convert", MODEL, "-o", str(tmp_path / "out"))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == [
        "error: interrupted; nothing was written",
        "hint:  the same command starts again",
    ]
    assert list(tmp_path.iterdir()) == []
