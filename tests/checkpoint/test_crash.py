"""A real child process, stopped for good at each step: the destination is old, new or absent."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from normsurgery.checkpoint import open_checkpoint
from tests.checkpoint.conftest import rewrite, save, tree, two_shards

# The child says where it is and waits there, so that the parent strikes at that very step.
CHILD = """
import os, shutil, signal, sys
from pathlib import Path
from normsurgery.checkpoint import Staging, open_checkpoint, staging as module, write_weights
from normsurgery.errors import SurgeryError

signal.signal(signal.SIGINT, signal.default_int_handler)
source, out, point, overwrite = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]

def stop(*_):
    print("here", flush=True)
    sys.stdin.readline()

def before(function):
    def stopped(*arguments, **options):
        stop()
        return function(*arguments, **options)
    return stopped

def after(function):
    def stopped(*arguments, **options):
        result = function(*arguments, **options)
        stop()
        return result
    return stopped

calls = []
def at_first_write(count):
    calls.append(count)
    if len(calls) == int(point.removeprefix("write ")):
        stop()

if point == "replacing":
    module.exchange = lambda one, other: False
    module.Path.rename = after(Path.rename)
if point == "replaced":
    module.exchange = after(module.exchange)
if point == "renamed":
    module.rename_new = after(module.rename_new)
if point == "syncing":
    module._sync_tree = before(module._sync_tree)
if point == "removing":
    shutil.rmtree = before(shutil.rmtree)
try:
    with Staging(out, overwrite=overwrite == "True", source=source, needed_bytes=0) as staged:
        if point == "staged":
            stop()
        progress = at_first_write if point.startswith("write") else None
        write_weights(open_checkpoint(source), staged.path, hashes=False, progress=progress)
        staged.publish()
except SurgeryError as error:
    print(error.message, flush=True)
    sys.exit(error.exit_code)
"""


@contextmanager
def stopped_at(
    point: str, source: Path, destination: Path, *, overwrite: bool
) -> Iterator[subprocess.Popen[str]]:
    """A child that has come to `point` and waits there; a line on its stdin lets it go on."""
    command = [sys.executable, "-c", CHILD, str(source), str(destination), point, str(overwrite)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        try:
            yield child
        finally:
            child.kill()


WRITES = ["write 1", "write 2", "write 3", "write 5", "write 9"]
FRESH = ["staged", *WRITES, "syncing", "renamed"]
OVER = ["staged", *WRITES, "syncing", "replacing", "replaced", "removing"]


@pytest.mark.parametrize("point", FRESH)
def test_killed_on_the_way_to_a_new_destination(tmp_path: Path, point: str) -> None:
    source, out = save(tmp_path / "source", two_shards()), tmp_path / "out"
    whole = rewritten(source, tmp_path / "expected")
    with stopped_at(point, source, out, overwrite=False) as child:
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert out.exists() == (point == "renamed")
    if out.exists():
        assert tree(out) == whole
    rewrite(open_checkpoint(source), out, overwrite=True)
    assert tree(out) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "source"]


@pytest.mark.parametrize("point", OVER)
def test_killed_while_overwriting(tmp_path: Path, point: str) -> None:
    source, out = save(tmp_path / "source", two_shards()), tmp_path / "out"
    old = tree(save(out, side_files={"old": b"1"}))
    whole = rewritten(source, tmp_path / "expected")
    with stopped_at(point, source, out, overwrite=True) as child:
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    if point == "replacing":  # a system without the exchange: absent for an instant, never lost
        assert not out.exists()
        assert old in [tree(path) for path in tmp_path.iterdir() if "-old-" in path.name]
    else:
        assert tree(out) == (whole if point in ("replaced", "removing") else old)
    rewrite(open_checkpoint(source), out, overwrite=True)
    assert tree(out) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "source"]


@pytest.mark.parametrize("point", ["staged", "write 1", "write 5", "syncing"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_interrupted_runs_clean_up_after_themselves(
    tmp_path: Path, point: str, overwrite: bool
) -> None:
    source, out = save(tmp_path / "source", two_shards()), tmp_path / "out"
    old = tree(save(out, side_files={"old": b"1"})) if overwrite else None
    with stopped_at(point, source, out, overwrite=overwrite) as child:
        child.send_signal(signal.SIGINT)
        assert child.wait() not in (0, 2, 3, 5)
    assert (tree(out) if out.exists() else None) == old
    assert all(".normsurgery-" not in path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_runs_onto_one_destination(tmp_path: Path, overwrite: bool) -> None:
    source, out = save(tmp_path / "source", two_shards()), tmp_path / "out"
    whole = rewritten(source, tmp_path / "expected")
    with (
        stopped_at("syncing", source, out, overwrite=overwrite) as one,
        stopped_at("syncing", source, out, overwrite=overwrite) as two,
    ):
        first, _ = one.communicate("go\n")
        assert one.returncode == 0, first
        assert tree(out) == whole
        second, _ = two.communicate("go\n")
        assert two.returncode == (0 if overwrite else 2)
        assert ("exists already" in second) == (not overwrite)
    assert tree(out) == whole
    assert all(".normsurgery-" not in path.name for path in tmp_path.iterdir())


def rewritten(source: Path, destination: Path) -> dict[str, bytes]:
    rewrite(open_checkpoint(source), destination)
    return tree(destination)
