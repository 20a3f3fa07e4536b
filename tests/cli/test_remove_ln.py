"""`normsurgery remove-ln`: the exit code of a preview, and real runs of the shipped model."""

import json
import subprocess
import sys

import pytest
from safetensors.torch import load_file

import normsurgery
from normsurgery.cli import main
from tests.cli.invoke import ROOT, Fake, environment, script
from tests.report import documents

MODEL = str(ROOT / "tests" / "data" / "tiny-gpt2-6x96")
SCHEDULE = """
steps: 8
start: 1
gap_mlp: 0.2
gap_qk: 0.2
gap_v: 0.2
gap_final: 1
gap_end: 1
gap_first: 1
learning_rate: 1.0e-4
"""
ASKED = ["--finetune", "--tokens=3000", "--max-length=32", "--no-verify", "--device=cpu"]
LAUNCH = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
INTERRUPTED = """
import os, signal, sys
from normsurgery.cli import main, progress

def tell(self, kind, facts):
    if kind == "removal" and facts["step"] == 5:
        os.kill(os.getpid(), signal.SIGTERM)

progress.Bars.tell = tell
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def schedule(tmp_path_factory):
    file = tmp_path_factory.mktemp("schedules") / "quick.yaml"
    file.write_text(SCHEDULE)
    return f"--schedule={file}"


def test_a_preview_is_printed_and_exits_2(monkeypatch, capsys):
    monkeypatch.setattr(normsurgery, "remove_ln", Fake(documents.remove_ln_preview_document()))
    assert main(["remove-ln", "a", "-o", "b"]) == 2
    out, err = capsys.readouterr()
    assert "nothing written (preview)" in out and "One path removed alone" in out
    assert "error: nothing was written" in err and "--finetune or --one-shot" in err


def test_a_preview_as_json_is_one_document(monkeypatch, capsys):
    fake = Fake(documents.remove_ln_preview_document())
    monkeypatch.setattr(normsurgery, "remove_ln", fake)
    assert main(["remove-ln", "a", "-o", "b", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == fake.answer and "nothing was written" in err


def test_only_the_main_process_speaks(monkeypatch, capsys):
    monkeypatch.setattr(normsurgery, "remove_ln", Fake(documents.remove_ln_document()))
    monkeypatch.setenv("RANK", "1")
    assert main(["remove-ln", "a", "-o", "b"]) == 0
    assert capsys.readouterr().out == ""


def test_a_terminated_run_says_how_it_goes_on_and_does(tmp_path, schedule, capsys):
    out = tmp_path / "out"
    words = ["remove-ln", MODEL, "-o", str(out), *ASKED, schedule, "--no-control", "--save-every=2"]
    process = script(INTERRUPTED, *words)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 130 and printed == ""
    assert "error: interrupted" in said and "--resume goes on" in said
    assert not out.exists()
    assert [p.name for p in (tmp_path / ".out.remove-ln" / "removal").glob("checkpoint-*")]
    assert main([*words, "--resume", "--json"]) == 0
    printed, said = capsys.readouterr()
    document = json.loads(printed)
    assert document["training"]["steps"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "step 8 of 8" in said  # a line now and then, where there is no terminal


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batches(tmp_path, schedule, capsys):
    words = ["remove-ln", MODEL, *ASKED, schedule, "--batch-size=4", "--json", "--control"]
    done = subprocess.run(
        [sys.executable, *LAUNCH, "-m", "normsurgery", *words, "-o", str(tmp_path / "two")],
        env=environment(), capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # of one process
    assert main([*words, "-o", str(tmp_path / "one"), "--gradient-accumulation=2"]) == 0
    wanted = json.loads(capsys.readouterr().out)
    for part in ("control", "training"):
        assert [loss for _, loss in document[part]["loss"]] == pytest.approx(
            [loss for _, loss in wanted[part]["loss"]], abs=1e-5
        )
        assert document[part]["tokens"] == wanted[part]["tokens"]
    for mine, theirs in zip(document["statistics"], wanted["statistics"], strict=True):
        assert mine["sigma"] == pytest.approx(theirs["sigma"], rel=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    assert load_file(tmp_path / "two" / "model.safetensors").keys() == (
        load_file(tmp_path / "one" / "model.safetensors").keys()
    )
