"""Runs what a page shows, block after block, in the working directory."""

from __future__ import annotations

import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from normsurgery.cli import main
from tests.docs.pages import ROOT, RUN, SHOWN, Block, Command, commands_of

# Shell commands that a page may use beside our own; they see the working directory only.
PLAIN = ("cat", "cp", "head", "ls", "mkdir", "rm", "wc")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")


class Made:
    """Runs a command once a session where it reads models of the Hub alone, and keeps what it made.

    Many pages begin with the same conversion; the second one gets a copy of the first one's output.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[tuple[str, ...], tuple[tuple[int, str, str], Path]] = {}

    def run(self, words: list[str]) -> tuple[int, str, str]:
        """As `captured` does."""
        output = _new_output(words)
        if output is None:
            return captured(words)
        key = tuple(words)
        if key not in self._known:
            done = captured(words)
            kept = self._directory / str(len(self._known))
            if output.is_dir():
                shutil.copytree(output, kept)
            self._known[key] = done, kept
            return done
        done, kept = self._known[key]
        if kept.is_dir():
            shutil.copytree(kept, output)
        return done


def _new_output(words: list[str]) -> Path | None:
    """Where the command writes, if that is new and nothing here is read."""
    if "-o" not in words or any(Path(word).exists() for word in words):
        return None
    return Path(words[words.index("-o") + 1])


class Page:
    """One page's run: its working directory is the process's, Python blocks share their names."""

    def __init__(
        self, name: str, made: Made | None = None, instead: dict[str, str] | None = None
    ) -> None:
        """instead: words of a command → what is run for them."""
        self.name = name
        self.made = made
        self.instead = instead or {}
        self.commands = 0
        self._module = ModuleType("page")
        sys.modules["page"] = self._module

    def run(self, block: Block) -> None:
        """Run one block. Raises AssertionError where it does not do what the page says."""
        where = f"{self.name}, line {block.line}"
        assert block.language in (*RUN, *SHOWN), f"{where}: a block of {block.language!r}"
        if block.title is not None:
            path = Path(block.title)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, self.name, "exec")
            with redirect_stdout(io.StringIO()):
                exec(code, self._module.__dict__)
        elif block.language in ("bash", "console"):
            for command in commands_of(block):
                self._command(command, where)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)

    def _command(self, command: Command, where: str) -> None:
        self.commands += 1
        words = [self.instead.get(word, word) for word in command.words]
        where = f"{where}: {' '.join(words)}"
        if words[0] == "normsurgery":
            words, target = _redirected(words[1:])
            code, output, errors = self.made.run(words) if self.made else captured(words)
            assert code == command.exit_code, f"{where}\nexit code {code}\n{output}\n{errors}"
            if target is not None:
                Path(target).write_text(output, encoding="utf-8")
            missing = first_missing(command.shown, output + errors)
            assert missing is None, f"{where}\nnot printed: {missing}\n{output}\n{errors}"
        elif words[0] in PLAIN:
            done = subprocess.run(["bash", "-c", command.text], capture_output=True, text=True)
            assert done.returncode == command.exit_code, f"{where}\n{done.stderr}"
            missing = first_missing(command.shown, done.stdout)
            assert missing is None, f"{where}\nnot printed: {missing}\n{done.stdout}"
        elif words[0] == "python" and Path(words[1]).is_file():
            _script(words[1:])
        else:
            check_only(words, where)


def _script(words: list[str]) -> None:
    """A program that the page has shown before, with its arguments."""
    before, sys.argv = sys.argv, words
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.argv = before


def _redirected(words: list[str]) -> tuple[list[str], str | None]:
    """A command's own words, and the file that its output goes to."""
    if ">" not in words:
        return words, None
    at = words.index(">")
    return words[:at], words[at + 1]


def captured(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line, in this process."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        code = main(words)
    return code, output.getvalue(), errors.getvalue()


def first_missing(shown: tuple[str, ...], output: str) -> str | None:
    """The first line of `shown` that `output` does not have, in order, figures apart.

    `…` stands for lines that are left out.
    """
    printed = iter([_shape(line) for line in output.splitlines()])
    for line in shown:
        if line.strip() in ("", "…"):
            continue
        if _shape(line) not in printed:  # moves the iterator on
            return line
    return None


def _shape(line: str) -> str:
    return " ".join(_NUMBER.sub("0", line).split())


def check_only(words: list[str], where: str) -> None:
    """`make` and `pip` are not run: what they name must exist."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[1] in targets, f"{where}: no such target"
        return
    assert words[:2] == ["pip", "install"], f"{where}: not a command that a page may show"
    extras = re.findall(r"\[([\w,]+)\]", " ".join(words))
    known: Any = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    assert {extra for one in extras for extra in one.split(",")} <= set(known), where
