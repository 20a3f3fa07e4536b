"""The project's own files say what is so."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_readme_lists_every_exit_code_of_the_errors():
    from normsurgery import errors
    from normsurgery.cli.interrupt import INTERRUPTED

    base = errors.SurgeryError
    kinds: list[type[errors.SurgeryError]] = [base, *base.__subclasses__()]
    codes = {0, INTERRUPTED, *(kind.exit_code for kind in kinds)}
    rows = re.findall(r"^\| (\d+) \|", read("README.md"), re.M)
    assert {int(code) for code in rows} == codes


def test_readme_names_every_command_and_make_target_that_exists():
    from normsurgery.cli.app import app

    text, targets = read("README.md"), re.findall(r"^([a-z-]+):", read("Makefile"), re.M)
    for info in app.registered_commands:
        assert info.callback is not None
        assert f"normsurgery {info.callback.__name__.replace('_', '-')} " in text
    assert set(re.findall(r"make ([a-z-]+) ", text)) <= set(targets)


def test_every_tool_is_pinned_exactly_once():
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    names = [re.split(r"==", line)[0].lower().replace("_", "-") for line in lines]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; python_version >= \"3.11\")?", x) for x in lines)
    assert len(names) == len(set(names))
    wanted = set(re.findall(r'"([\w-]+)>=', read("pyproject.toml"))) - {"setuptools"}
    assert {"torch", "datasets", "matplotlib", "peft"} <= wanted
    dev = re.search(r"^dev = \[(.*)\]$", read("pyproject.toml"), re.M)
    assert dev is not None
    assert {name.lower() for name in [*wanted, *re.findall(r'"([\w-]+)"', dev[1])]} <= set(names)


def test_ci_runs_the_readme_s_test_command_and_the_linters():
    assert re.search(r"^make test$", read(".ci/run"), re.M)
    assert re.search(r"^make lint$", read(".ci/run"), re.M)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "LICENSE"])
def test_papers_are_there(name):
    assert len(read(name)) > 1000
