"""A wrong word brings the right one; a missing output brings a name; letters mean one thing."""

import json
from collections import defaultdict

import pytest
import typer

import normsurgery
from normsurgery.cli import main
from normsurgery.cli.app import app
from tests.cli.invoke import Fake
from tests.report import documents

OUT = ["-o", "out"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def said(capsys, *arguments):
    """The error and the hint of a command line that is refused."""
    assert main(list(arguments)) == 2
    error, hint = capsys.readouterr().err.splitlines()
    return error.removeprefix("error: "), hint.removeprefix("hint:  ")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["fold", "x", *OUT, "--waht", "norm"], "did you mean --what? "),
        (["inspect", "x", "--HEALTH"], "did you mean --health? "),
        (["convert", "x", *OUT, "--no-verfy"], "did you mean --no-verify? "),
        (["--verion"], "did you mean --version? "),
        (["foldbn", "x"], "did you mean fold-bn? "),
        (["fold-bn", "x", *OUT, "--form", "kep"], "did you mean keep? "),
        (["heal", "x", *OUT, "--teacher", "t", "--train", "lroa"], "did you mean lora? "),
        (["convert", "x", *OUT, "--dtype", "bf16"], "did you mean bfloat16? "),
        (["convert", "x", *OUT, "--what", "norm"], "it is an option of fold; "),
        (["fold", "x", *OUT, "--what", "norm,rotat"], "did you mean rotate? "),
        (["remove-ln", "x", *OUT, "--sites", "mpl"], "did you mean mlp? "),
    ],
)
def test_a_wrong_word_brings_the_right_one(capsys, arguments, meant):
    assert said(capsys, *arguments)[1].startswith(meant)


@pytest.mark.parametrize(
    "arguments", [["qqqq"], ["convert", "x", "--qqqq"], ["convert", "x", "-x"]]
)
def test_where_nothing_is_alike_there_is_the_help(capsys, arguments):
    assert said(capsys, *arguments)[1].endswith("--help")
    assert main(arguments) == 2 and "did you mean" not in capsys.readouterr().err


def test_choices_are_listed_beside_the_likeliest(capsys):
    error, _ = said(capsys, "convert", "x", *OUT, "--to", "rmsnrm")
    assert error == "Invalid value for '--to': 'rmsnrm' is not one of 'rmsnorm', 'crmsnorm'"
    _, hint = said(capsys, "fold", "x", *OUT, "--what", "rotat")
    assert "one of: " in hint and "layerscale" in hint


WRITING = sorted(
    name for name, one in COMMANDS.items() if any("-o" in p.opts and p.required for p in one.params)
)


@pytest.mark.parametrize("name", WRITING)
def test_every_command_that_writes_proposes_a_name_and_writes_nothing(
    capsys, monkeypatch, tmp_path, name
):
    monkeypatch.chdir(tmp_path)
    fake = Fake(documents.convert_document())
    monkeypatch.setattr(normsurgery, name.replace("-", "_"), fake)
    error, hint = said(capsys, name, "openai-community/gpt2@main")
    assert error.startswith("Missing option '--output' / '-o'")
    assert hint.startswith("-o gpt2-") and fake.calls == [] and not list(tmp_path.iterdir())


def test_a_proposed_name_is_one_word_for_a_shell(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model").mkdir()
    assert said(capsys, "prune", "my model")[1] == "-o 'my model-pruned'"


def test_a_letter_means_one_option_in_all_commands():
    meanings = defaultdict(set)
    for command in COMMANDS.values():
        taken: list[str] = []
        for parameter in command.params:
            letters = [x for x in parameter.opts if len(x) == 2 and x.startswith("-")]
            taken += letters
            for letter in letters:
                meanings[letter].add(max(parameter.opts, key=len))
        assert len(taken) == len(set(taken)), command.name
    assert {letter: names for letter, names in meanings.items() if len(names) > 1} == {}
    wanted = {"-o": "--output", "-n": "--dry-run", "-f": "--overwrite", "-d": "--data"}
    wanted |= {"-j": "--json", "-w": "--what"}
    assert {letter: meanings[letter] for letter in wanted} == {x: {y} for x, y in wanted.items()}


def test_letters_reach_the_api_together_and_apart(monkeypatch, capsys):
    fake = Fake(documents.fold_document())
    monkeypatch.setattr(normsurgery, "fold", fake)
    assert main(["fold", "x", "-nfj", "-o", "out", "-w", "norm", "-d", "t.txt"]) == 0
    assert json.loads(capsys.readouterr().out) == fake.answer
    options = fake.calls[0][1]
    assert options["dry_run"] and options["overwrite"] and options["what"] == "norm"
    assert str(options["data"]) == "t.txt"


@pytest.mark.parametrize("flag", ["-j", "-nj", "--json"])
def test_errors_are_json_however_it_was_asked_for(capsys, flag):
    assert main(["convert", "x", flag]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_the_letter_of_version(capsys):
    assert main(["-V"]) == 0
    assert capsys.readouterr().out.startswith("normsurgery ")
