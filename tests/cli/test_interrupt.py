"""An interrupt says what is on the disk, and how to go on."""

from pathlib import Path

import pytest

import normsurgery
from normsurgery.cli import main
from normsurgery.cli.interrupt import (
    HEALED,
    MEASURED,
    REMOVED,
    InterruptedByUserError,
    interruptible,
    kept_by_recipe,
    resumable,
)
from tests.cli.invoke import ROOT
from tests.cli.test_commands import NEEDED, spelled

MODEL = str(ROOT / "tests" / "data" / "tiny-gpt2-6x96")
WRITING = [name for name, given in NEEDED.items() if "-o" in given]
STEP = "checkpoint-20/trainer_state.json"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1500)


def interrupted(monkeypatch, capsys, command, *before, arguments=None):
    """What is said where a command is interrupted after it wrote `before`."""

    def stopped(*given, **options):
        for name in before:
            put(Path(name))
        raise KeyboardInterrupt

    monkeypatch.setattr(normsurgery, command, stopped)
    assert main(arguments or [spelled(command), *NEEDED[command]]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.mark.parametrize("command", WRITING)
def test_where_nothing_is_left_that_is_said(monkeypatch, capsys, here, command):
    assert interrupted(monkeypatch, capsys, command).splitlines() == [
        "error: interrupted; nothing was written",
        "hint:  the same command starts again",
    ]


@pytest.mark.parametrize(
    ("command", "saved", "hint"),
    [
        ("prune", ".out.calibration/windows-3.0.4.pt", "the same command goes on"),
        ("heal", f".out.heal/{STEP}", "--resume goes on"),
        ("remove_ln", f".out.remove-ln/{STEP}", "--resume goes on"),
        ("remove_ln", f".out.remove-ln/control/{STEP}", "--resume goes on"),
    ],
)
def test_what_can_go_on_is_named_with_its_size_and_how(
    monkeypatch, capsys, here, command, saved, hint
):
    error, said = interrupted(monkeypatch, capsys, command, saved).splitlines()
    directory = saved.split("/")[0]
    assert f"nothing was written; what is done so far is kept in {directory} (1.5 kB)" in error
    assert hint in said and said.endswith(f"or give it up: rm -r {directory}")


@pytest.mark.parametrize(
    ("command", "begun"),
    [
        ("prune", ".out.calibration/fingerprint.json"),
        ("heal", ".out.heal/run.json"),
        ("heal", ".out.heal/checkpoint-20/model.safetensors"),
    ],
)
def test_a_directory_without_finished_work_promises_nothing(
    monkeypatch, capsys, here, command, begun
):
    error, hint = interrupted(monkeypatch, capsys, command, begun).splitlines()
    assert "nothing is finished yet in .out." in error
    assert "starts again" in hint and "goes on" not in hint and "rm -r .out." in hint


def test_an_output_that_was_there_is_as_it_was(monkeypatch, capsys, here):
    put(here / "out" / "config.json")
    assert "out is as it was" in interrupted(monkeypatch, capsys, "convert")


def test_an_output_that_came_into_place_is_complete(monkeypatch, capsys, here):
    said = interrupted(monkeypatch, capsys, "convert", "out/config.json")
    assert said == "error: interrupted; out is complete: it had moved into place\n"


def test_in_a_recipe_resuming_is_a_key_of_its_step(monkeypatch, capsys, here):
    recipe = here / "r.yaml"
    recipe.write_text("source: a\nsteps: [{surgery: heal, teacher: b}]\noutput: out\n")
    said = interrupted(monkeypatch, capsys, "run", f".out.heal/{STEP}", arguments=["run", "r.yaml"])
    assert "--set steps.0.resume=true goes on" in said
    assert kept_by_recipe(["heal", "fold"]) is None and kept_by_recipe(["convert"]) is None
    assert kept_by_recipe(["prune"]) == MEASURED


def test_what_leaves_nothing_here_says_how_it_goes_on():
    with pytest.raises(InterruptedByUserError) as raised, resumable("again"):
        raise KeyboardInterrupt
    assert (raised.value.hint, raised.value.exit_code) == ("again", 130)


def test_the_directories_are_those_of_the_training():
    from normsurgery.train.work import work_directory

    out = Path("some/out")
    assert HEALED.directory(out) == work_directory(out, "heal")
    assert REMOVED.directory(out) == work_directory(out, "remove-ln")


def test_a_prune_that_was_interrupted_goes_on(monkeypatch, capsys, here):
    from normsurgery.calibrate.resume import WorkPart

    real, saves = WorkPart.save, []

    def save(self, step, state):
        real(self, step, state)
        saves.append(step)
        if len(saves) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(WorkPart, "save", save)
    line = ["prune", MODEL, "-o", "out", "--drop", "2", "--tokens", "1000", "--max-length", "64"]
    line += ["--method", "angular", "--device", "cpu", "--no-verify"]
    assert main(line) == 130
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert "what is done so far is kept in .out.calibration" in error and "goes on" in hint
    assert [path.name for path in here.iterdir()] == [".out.calibration"]
    first = len(saves)
    assert main(line) == 0
    assert saves[first] == saves[first - 1] + 1  # not from the first block again
    assert [path.name for path in here.iterdir()] == ["out"]


def test_what_was_still_to_do_with_an_output_that_stands_is_said(tmp_path):
    for written, hint in ((True, "normsurgery push out a/b"), (False, "the same command")):
        output = tmp_path / f"out-{written}"
        with pytest.raises(InterruptedByUserError) as caught:
            with interruptible(output, then="normsurgery push out a/b"):
                if written:
                    output.mkdir()
                raise KeyboardInterrupt
        assert caught.value.hint.startswith(hint)
        assert ("is complete" in caught.value.message) == written
