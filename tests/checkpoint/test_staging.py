"""Where the output may go, and that nothing but a complete one ever gets there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normsurgery.checkpoint import Staging, check_destination, open_checkpoint, write_weights
from normsurgery.checkpoint import staging as staging_module
from normsurgery.checkpoint.system import rename_new
from normsurgery.errors import ResourceError, UsageError
from tests.checkpoint.conftest import rewrite, save, tree


def stage(destination: Path, **options: Any) -> Staging:
    defaults: dict[str, Any] = {"overwrite": False, "source": None, "needed_bytes": 0}
    return Staging(destination, **{**defaults, **options})


def hidden(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if ".normsurgery-" in path.name]


def test_an_existing_destination_is_refused_and_untouched(source: Path, tmp_path: Path) -> None:
    out = save(tmp_path / "out")
    before = tree(out)
    with pytest.raises(UsageError, match="exists already") as caught:
        rewrite(open_checkpoint(source), out)
    assert caught.value.exit_code == 2
    assert "--overwrite" in caught.value.hint
    assert tree(out) == before
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("can_exchange", [True, False])
def test_overwrite_replaces_the_whole(
    source: Path, tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(staging_module, "exchange", lambda one, other: False)
    out = save(tmp_path / "out", side_files={"old.txt": b"old"})
    rewrite(open_checkpoint(source), out, overwrite=True)
    assert tree(out) == tree(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_overwrite_of_nothing_and_of_an_empty_directory(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        rewrite(open_checkpoint(source), tmp_path / name, overwrite=True)
        assert tree(tmp_path / name) == tree(source)


def make_home(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def make_project(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")


@pytest.mark.parametrize(
    "make",
    [make_home, make_project, Path.touch, os.mkfifo, lambda path: path.symlink_to("elsewhere")],
    ids=["home", "project", "file", "fifo", "link"],
)
def test_overwrite_never_removes_what_is_no_checkpoint(
    source: Path, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    make(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="not overwritten"):
        rewrite(open_checkpoint(source), tmp_path / "out", overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("where", [".", "inside", "custom/..", "../source", ".."])
def test_source_and_destination_must_be_apart(source: Path, where: str, overwrite: bool) -> None:
    before = tree(source)
    with pytest.raises(UsageError, match=r"source|inside"):
        rewrite(open_checkpoint(source), source / where, overwrite=overwrite)
    assert tree(source) == before


def test_the_source_by_way_of_a_link(source: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(source)
    with pytest.raises(UsageError):
        rewrite(open_checkpoint(source), tmp_path / "alias", overwrite=True)
    with pytest.raises(UsageError, match="inside"):
        rewrite(open_checkpoint(source), tmp_path / "alias" / "out")


def test_the_parent_must_exist(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        rewrite(open_checkpoint(source), tmp_path / "a" / "b")
    assert caught.value.hint.startswith("mkdir -p ")
    assert not (tmp_path / "a").exists()


def test_the_root_is_no_output() -> None:
    with pytest.raises(UsageError, match="cannot be an output"):
        check_destination(Path("/"), overwrite=True, source=None)


def test_disk_space_is_checked_before_the_first_byte(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"only .* are free") as caught:
        stage(tmp_path / "out", needed_bytes=1 << 60).__enter__()
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write everywhere
    with pytest.raises(ResourceError, match="Permission denied"):
        stage(tmp_path / "out").__enter__()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, UsageError("x"), SystemExit])
def test_leaving_without_publishing_leaves_nothing(
    tmp_path: Path, error: type[BaseException] | BaseException
) -> None:
    def interrupted() -> None:
        with stage(tmp_path / "out") as staging:
            (staging.path / "weights").write_bytes(b"half")
            assert hidden(tmp_path) == [staging.path.name]
            raise error

    with pytest.raises(BaseException, match=r"x?") as caught:
        interrupted()
    assert isinstance(caught.value, error if isinstance(error, type) else type(error))
    assert list(tmp_path.iterdir()) == []


def test_the_staging_directory_is_hidden_and_beside(tmp_path: Path) -> None:
    with stage(tmp_path / "out") as staging:
        assert staging.path.parent == tmp_path
        assert staging.path.name.startswith(".out.")
        assert not (tmp_path / "out").exists()
    with pytest.raises(RuntimeError):
        _ = staging.path


def test_a_name_of_255_bytes(source: Path, tmp_path: Path) -> None:
    out = tmp_path / ("ü" * 127)
    rewrite(open_checkpoint(source), out)
    rewrite(open_checkpoint(source), out, overwrite=True)
    assert tree(out) == tree(source)


def test_dead_staging_is_removed_and_live_staging_is_not(source: Path, tmp_path: Path) -> None:
    dead = tmp_path / ".other.normsurgery-0123456789ab"
    dead.mkdir()
    (dead / "half").write_bytes(b"x")
    bystanders = [tmp_path / ".out.normsurgery-short", tmp_path / "out.normsurgery-0123456789ab"]
    for path in bystanders:
        path.mkdir()
    with stage(tmp_path / "live") as live:
        rewrite(open_checkpoint(source), tmp_path / "out")
        assert live.path.is_dir()
    assert not dead.exists()
    assert all(path.is_dir() for path in bystanders)


def test_a_link_with_the_name_of_staging_is_not_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / ".a.normsurgery-0123456789ab").symlink_to(source)
    before = tree(source)
    rewrite(open_checkpoint(source), tmp_path / "out")
    assert tree(source) == before


def test_keep_moves_it_aside(source: Path, tmp_path: Path) -> None:
    with stage(tmp_path / "out") as staging:
        write_weights(open_checkpoint(source), staging.path)
        staging.keep(tmp_path / "out.failed")
    assert tree(tmp_path / "out.failed") == tree(source)
    assert not (tmp_path / "out").exists()
    with stage(tmp_path / "out") as staging, pytest.raises(UsageError, match="exists already"):
        staging.keep(tmp_path / "out.failed")
    assert tree(tmp_path / "out.failed") == tree(source)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("renameat2", [True, False])
def test_a_destination_that_appears_meanwhile_is_kept(
    source: Path, tmp_path: Path, renameat2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not renameat2:
        monkeypatch.setattr("normsurgery.checkpoint.system._renameat2", lambda *_: False)
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="exists already"), stage(out) as staging:
        write_weights(open_checkpoint(source), staging.path)
        save(out, side_files={"theirs": b"1"})
        staging.publish()
    assert "theirs" in tree(out)
    assert hidden(tmp_path) == []


def test_a_destination_that_appears_between_check_and_rename(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real = rename_new

    def rename_late(old: Path, new: Path) -> None:
        save(out, side_files={"theirs": b"1"})
        real(old, new)

    monkeypatch.setattr(staging_module, "rename_new", rename_late)
    with pytest.raises(UsageError, match="exists already"):
        rewrite(open_checkpoint(source), out)
    assert "theirs" in tree(out)


def test_two_runs_with_overwrite_end_with_one_of_them(source: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", save(tmp_path / "other", side_files={"b": b"2"})
    with stage(out, overwrite=True) as one, stage(out, overwrite=True) as two:
        write_weights(open_checkpoint(source), one.path)
        write_weights(open_checkpoint(other), two.path)
        one.publish()
        assert tree(out) == tree(source)
        two.publish()
        assert tree(out) == tree(other)
    assert tree(out) == tree(other)
    assert hidden(tmp_path) == []


def test_a_replacement_that_died_half_way_is_undone(source: Path, tmp_path: Path) -> None:
    """Without an exchange there are two renames; a crash between them must not lose the old one."""
    backup = tmp_path / ".out.normsurgery-old-0123456789ab"
    shutil.copytree(source, backup)
    with pytest.raises(UsageError, match="exists already"):
        rewrite(open_checkpoint(source), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(source)
    assert hidden(tmp_path) == []


def test_a_replacement_that_died_at_its_end_is_finished(source: Path, tmp_path: Path) -> None:
    out = save(tmp_path / "out", side_files={"new": b"1"})
    shutil.copytree(source, tmp_path / ".out.normsurgery-old-0123456789ab")
    before = tree(out)
    with pytest.raises(UsageError):
        stage(out)
    with stage(out, overwrite=True):
        pass
    assert tree(out) == before
    assert hidden(tmp_path) == []


def test_a_failing_replacement_puts_the_old_one_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = save(tmp_path / "out", side_files={"old": b"1"})
    before = tree(out)
    monkeypatch.setattr(staging_module, "exchange", lambda one, other: False)
    real = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if ".normsurgery-" in self.name and "-old-" not in self.name:
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(ResourceError, match="Input/output"):
        rewrite(open_checkpoint(source), out, overwrite=True)
    assert tree(out) == before
    assert hidden(tmp_path) == []
