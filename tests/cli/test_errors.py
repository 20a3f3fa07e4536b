"""Exit codes, one line and one hint on stderr, JSON errors, tracebacks on request."""

import errno
import json

import pytest

import normsurgery
from normsurgery import errors
from normsurgery.cli import main
from tests.cli.invoke import Fake
from tests.report import documents

CODES = [
    (errors.SurgeryError("m", "h"), 1),
    (errors.UsageError("m", "h"), 2),
    (errors.CheckpointError("m", "h"), 3),
    (errors.UnsupportedModelError("m", "h"), 4),
    (errors.ResourceError("m", "h"), 5),
    (errors.VerificationError("m", "h"), 6),
    (errors.HubError("m", "h"), 7),
    (OSError(errno.ENOSPC, "No space left on device"), 5),
    (MemoryError(), 5),
    (ZeroDivisionError("oops"), 1),
    (KeyboardInterrupt(), 130),
]


@pytest.fixture
def failing(monkeypatch):
    def with_error(error):
        monkeypatch.setattr(normsurgery, "inspect", Fake(error))

    return with_error


@pytest.mark.parametrize(("error", "code"), CODES)
def test_each_error_has_its_exit_code_and_nothing_on_stdout(failing, capsys, error, code):
    failing(error)
    assert main(["inspect", "gpt2"]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and "Traceback" not in err
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize(("error", "code"), CODES)
def test_json_reports_each_error_as_one_document(failing, capsys, error, code):
    failing(error)
    assert main(["inspect", "gpt2", "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "hint", "exit_code"}
    assert document["error"]["exit_code"] == code


def test_message_and_hint_are_one_line_each_however_long(failing, capsys):
    failing(errors.UsageError("first\nsecond " + "x" * 300, "do\nthis"))
    main(["inspect", "gpt2"])
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"error: first second {'x' * 300}", "hint:  do this"]


def test_names_in_errors_cannot_steer_the_terminal(failing, capsys):
    failing(errors.CheckpointError("[red]h.0[/] \x1b[31m\x07\x9b", "h"))
    main(["inspect", "gpt2"])
    assert capsys.readouterr().err.splitlines()[0] == r"error: [red]h.0[/] \x1b[31m\x07\x9b"


def test_traceback_is_shown_on_request_only(failing, capsys):
    failing(ZeroDivisionError("oops"))
    assert main(["inspect", "gpt2", "--traceback"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err and "ZeroDivisionError: oops" in err
    assert "error: ZeroDivisionError: oops" in err and "this is a bug" in err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["convert", "gpt2"], "Missing option '--output' / '-o'", "-o gpt2-rmsnorm"),
        (["convert"], "Missing argument 'MODEL'", "normsurgery convert --help"),
        (["convrt"], "No such command 'convrt'", "did you mean convert? normsurgery --help"),
        (["inspect", "gpt2", "--halth"], "--halth", "mean --health? normsurgery inspect --help"),
        (["convert", "a", "-o", "b", "--to", "gn"], "'rmsnorm', 'crmsnorm'", "convert --help"),
        (["convert", "a", "-o", "b", "--seed", "x"], "--seed", "normsurgery convert --help"),
        (["verify", "a"], "Missing argument 'CANDIDATE'", "normsurgery verify --help"),
        (["verify", "a", "b", "--tokens", "0"], "--tokens", "normsurgery verify --help"),
        (["inspect", "a", "b"], "unexpected extra argument", "normsurgery inspect --help"),
    ],
)
def test_wrong_usage_exits_2_and_points_to_help(capsys, arguments, message, hint):
    assert main(arguments) == 2
    error, suggestion = capsys.readouterr().err.splitlines()
    assert message in error and suggestion.startswith("hint:  ") and hint in suggestion
    assert main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert err == "" and message in json.loads(out)["error"]["message"]


def test_json_after_two_dashes_is_an_argument(monkeypatch, capsys):
    fake = Fake(documents.inspect_document())
    monkeypatch.setattr(normsurgery, "inspect", fake)
    assert main(["inspect", "--", "--json"]) == 0
    assert fake.calls[0][0] == ("--json",)
    assert capsys.readouterr().out.startswith("inspect")


def test_a_cause_is_what_the_traceback_shows(failing, capsys):
    error = errors.HubError("the Hub did not answer", "try again")
    error.__cause__ = ConnectionError("refused")
    failing(error)
    assert main(["inspect", "gpt2", "--traceback"]) == 7
    assert "ConnectionError: refused" in capsys.readouterr().err
