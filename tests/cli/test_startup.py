"""Help, version and completion: fast because they import nothing heavy; time itself is measured
in benchmarks/startup.py."""

import json
import sys

import pytest

from normsurgery.cli import main
from tests.cli.invoke import command, script

HEAVY = ("torch", "transformers", "huggingface_hub", "safetensors", "numpy", "accelerate", "yaml")
COMMANDS = [
    *["inspect", "convert", "remove-ln", "fold-bn", "fold", "prune", "arrange", "heal", "verify"],
    *["run", "report", "card", "push", "bench", "eval", "doctor"],
]
PROBE = f"""
import json, sys
from pathlib import Path
from normsurgery.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as leaving:
    code = leaving.code
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps({{"code": code, "heavy": heavy, "peak_kib": peak}}), file=sys.stderr)
"""


def probe(*arguments):
    process = script(PROBE, *arguments)
    _, err = process.communicate(timeout=60)
    return json.loads(err.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], [], *([name, "--help"] for name in COMMANDS), ["convert", "x"]],
)
def test_answers_without_importing_anything_heavy(arguments):
    found = probe(*arguments)
    assert found["heavy"] == []
    assert found["code"] == (2 if arguments == ["convert", "x"] else 0)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"]])
def test_help_stays_under_60_mib(arguments):
    (peak,) = probe(*arguments)["peak_kib"]
    assert peak < 60 * 1024


def test_the_probe_sees_a_heavy_import():
    process = script("import yaml\n" + PROBE, "--help")
    assert json.loads(process.communicate(timeout=60)[1])["heavy"] == ["yaml"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_parse(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    examples = [line.split() for line in text.splitlines() if line.startswith("    normsurgery ")]
    assert len(examples) >= 2
    for words in examples:
        cut = words.index("|") if "|" in words else len(words)
        assert words[1] == name
        assert main([*words[1:cut], "--help"]) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert main([]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith(f"  {name} "))
    assert not line.endswith("...")


def test_alone_it_prints_the_help_with_all_commands_and_exit_codes(capsys):
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in (*COMMANDS, "Exit codes", "130 interrupted"):
        assert word in out


def test_version_names_us_and_the_libraries(capsys):
    assert main(["--version"]) == 0
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    import safetensors

    from normsurgery.version import VERSION

    assert lines["normsurgery"] == VERSION
    assert lines["safetensors"] == safetensors.__version__
    assert {"python", "torch", "transformers"} <= set(lines)


def test_python_m_is_the_same_program():
    done = command("--version")
    assert done.returncode == 0 and done.stdout.startswith("normsurgery ") and done.stderr == ""


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("normsurgery con", {"convert"}),
        ("normsurgery ", set(COMMANDS)),
        ("normsurgery convert --fold", {"--fold-affine"}),
        ("normsurgery convert x --target ", {"auto", "native", "stock", "graft"}),
        ("normsurgery verify --against", {"--against-float64"}),
        ("normsurgery fold x --what norm,ro", {"norm,rotate"}),
    ],
)
def test_bash_completion(words, wanted):
    """The protocol of the script that --install-completion installs."""
    done = command(
        _NORMSURGERY_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
    assert done.returncode == 0
    assert set(done.stdout.split()) == wanted


def test_the_completion_script_calls_back_into_this_program():
    done = command(_NORMSURGERY_COMPLETE="source_bash")
    assert done.returncode == 0
    assert "_NORMSURGERY_COMPLETE=complete_bash" in done.stdout
    assert "complete -o default -F" in done.stdout
