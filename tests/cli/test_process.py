"""What only a real process shows: signals, closed pipes, colours, noise."""

import os
import pty
import signal
import subprocess

import pytest

from tests.cli.invoke import command, environment, script

WAITING = """
import sys, time
import normsurgery
from normsurgery.cli import main

def inspect(model, **options):
    try:
        print("working", file=sys.stderr, flush=True)
        time.sleep(60)
    finally:
        print("cleaned", file=sys.stderr, flush=True)

normsurgery.inspect = inspect
sys.exit(main(["inspect", "gpt2", *sys.argv[1:]]))
"""
PRINTING = """
import sys
import normsurgery
from normsurgery.cli import main
from tests.report.documents import inspect_document

class Result:
    def to_dict(self):
        return inspect_document(blocks=int(sys.argv[1]))

normsurgery.inspect = lambda *a, **k: Result()
sys.exit(main(["inspect", "gpt2", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cleans_up_and_exits_130(number):
    process = script(WAITING)
    assert process.stderr is not None
    assert process.stderr.readline() == "working\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == ["cleaned", "error: interrupted"]


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_reader_that_leaves_early_is_no_error(extra):
    read, write = os.pipe()
    os.close(read)
    process = script(PRINTING, "40", *extra, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def terminal_output(*arguments, **changes):
    """What a process prints when its stdout and stderr are a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        arguments, stdout=follower, stderr=follower, env=environment(TERM="xterm", **changes)
    )
    os.close(follower)
    text = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not chunk:
            break
        text += chunk
    os.close(leader)
    process.wait(timeout=60)
    return text.decode()


def report(**changes):
    import sys

    return terminal_output(sys.executable, "-c", PRINTING, "2", COLUMNS="80", **changes)


def test_colours_on_a_terminal_and_none_with_no_color():
    assert "\x1b[1;32m" in report()
    assert "32m" not in report(NO_COLOR="1")


def test_no_escape_sequence_where_stdout_is_a_pipe():
    process = script(PRINTING, "2")
    out, err = process.communicate(timeout=60)
    assert "\x1b" not in out and err == ""


def test_an_encoding_without_our_characters_is_no_crash():
    done = command("convert", "./does-not-exist-γ", "-o", "x", PYTHONIOENCODING="ascii")
    assert "Traceback" not in done.stderr and "UnicodeEncodeError" not in done.stderr
    assert done.returncode not in (0, 1)
