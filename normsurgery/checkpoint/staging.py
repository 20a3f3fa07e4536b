"""A hidden directory beside the destination, which becomes the destination in one rename.

At every instant, and after any crash, the destination is absent, or the old one complete, or the
new one complete. A live run holds a lock on its staging directory, so what a dead one left behind
is told apart and removed by the next run.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from normsurgery.checkpoint.files import exists, listed
from normsurgery.checkpoint.system import exchange, rename_new
from normsurgery.checkpoint.text import shown
from normsurgery.errors import ResourceError, UsageError

_MARK = ".normsurgery-"
_STAGING = re.compile(r"\..+\.normsurgery-[0-9a-f]{12}")


class Staging:
    """Context manager: write into `.path`, then `publish()`, or nothing will have happened.

    overwrite: replace a destination that exists, if it is a checkpoint or empty.
    source: the directory read from; it and the destination must lie apart.
    needed_bytes: free disk demanded before the directory is made.
    """

    def __init__(
        self, destination: Path, *, overwrite: bool, source: Path | None, needed_bytes: int
    ) -> None:
        self.destination = _absolute(destination)
        self._overwrite, self._source, self._needed_bytes = overwrite, source, needed_bytes
        self._path: Path | None = None
        self._lock = -1
        check_destination(self.destination, overwrite=overwrite, source=source)

    @property
    def path(self) -> Path:
        """The staging directory; only inside the context."""
        if self._path is None:
            raise RuntimeError("the staging directory exists only inside its context")
        return self._path

    def __enter__(self) -> Staging:
        parent = self.destination.parent
        _recover(self.destination)
        _clean(parent)
        check_destination(self.destination, overwrite=self._overwrite, source=self._source)
        free = shutil.disk_usage(parent).free
        if free < self._needed_bytes:
            raise ResourceError(
                f"{shown(self.destination.name)} needs {self._needed_bytes:,} bytes of disk, "
                f"but only {free:,} are free there",
                "free some space, or put the output on another disk",
            )
        try:
            self._path, self._lock = _make(self.destination)
        except OSError as error:
            raise ResourceError(
                f"nothing can be written beside {shown(self.destination.name)}: {error.strerror}",
                "choose a directory that is yours",
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._path is not None:
            # after an exchange it is the old destination that has this name
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def publish(self) -> None:
        """Make the directory the destination, durably.

        Raises UsageError if the destination has appeared, or is no checkpoint, by now.
        """
        _sync_tree(self.path)
        check_destination(self.destination, overwrite=self._overwrite, source=self._source)
        try:
            if exists(self.destination):
                _replace(self.path, self.destination)
            else:
                rename_new(self.path, self.destination)
        except FileExistsError:
            raise _taken(self.destination) from None
        except OSError as error:
            raise ResourceError(
                f"{shown(self.destination.name)} could not be put in place: {error.strerror}",
                "check the directory that it is in; what was there before is still there",
            ) from None
        _sync(self.destination.parent)

    def keep(self, path: Path) -> None:
        """Move the directory to a free name instead, for study."""
        try:
            rename_new(self.path, _absolute(path))
        except FileExistsError:
            raise _taken(path) from None
        self._path = None


def check_destination(destination: Path, *, overwrite: bool, source: Path | None) -> None:
    """Raise UsageError if the destination cannot be written as asked. Touches nothing."""
    destination = _absolute(destination)
    name = shown(destination.name)
    if not destination.parent.is_dir():
        raise UsageError(
            f"the directory that {name} is to be in does not exist",
            f"mkdir -p {destination.parent}",
        )
    if source is not None:
        _check_apart(destination, source.resolve())
    if not exists(destination):
        return
    if not overwrite:
        raise _taken(destination)
    if destination.is_symlink() or not destination.is_dir():
        raise UsageError(
            f"{name} is not a directory, so it is not overwritten", "choose another name"
        )
    if not _is_replaceable(destination):
        raise UsageError(
            f"{name} holds something else than a checkpoint, so it is not overwritten",
            "choose another name, or remove it yourself",
        )


def _check_apart(destination: Path, source: Path) -> None:
    if destination.resolve() == source:
        raise UsageError("the destination is the source", "choose another name for the output")
    if destination.is_relative_to(source) or source.is_relative_to(destination.resolve()):
        raise UsageError(
            f"{shown(destination.name)} and the source lie one inside the other",
            "choose a directory apart from the source",
        )


def _is_replaceable(directory: Path) -> bool:
    # --overwrite on a mistyped path must not remove a home directory
    names = listed(directory)
    weights = any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names)
    return not names or (weights and "config.json" in names)


def _taken(destination: Path) -> UsageError:
    return UsageError(
        f"{shown(destination.name)} exists already", "choose another name, or pass --overwrite"
    )


def _absolute(path: Path) -> Path:
    whole = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() follows a last link
    if not whole.name:
        raise UsageError(
            f"{shown(path)} cannot be an output", "name a directory that is to be made"
        )
    return whole.parent.resolve() / whole.name


def _stem(destination: Path) -> str:
    # room for the mark within the 255 bytes of a file name
    return "." + os.fsencode(destination.name)[:180].decode(errors="ignore") + _MARK


def _make(destination: Path) -> tuple[Path, int]:
    while True:
        path = destination.with_name(_stem(destination) + secrets.token_hex(6))
        path.mkdir()
        lock = _locked(path, wait=True)
        # between mkdir and the lock another run may have taken it for a dead one's and removed it
        if lock is not None and exists(path):
            return path, lock
        if lock is not None:
            os.close(lock)


def _locked(path: Path, *, wait: bool = False) -> int | None:
    """A locked descriptor of a directory; None if another process has it, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        if wait:  # a file system without locks: others then cannot take it for a dead one's either
            return descriptor
        os.close(descriptor)
        return None
    return descriptor


def _clean(parent: Path) -> None:
    """Remove the staging directories of dead runs."""
    for name in listed(parent):
        path = parent / name
        if not _STAGING.fullmatch(name) or path.is_symlink() or not path.is_dir():
            continue
        lock = _locked(path)
        if lock is not None:
            if os.fstat(lock).st_uid == os.getuid():
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _backups(destination: Path) -> Iterator[Path]:
    stem = _stem(destination) + "old-"
    for name in listed(destination.parent):
        if name.startswith(stem):
            yield destination.parent / name


def _recover(destination: Path) -> None:
    """Undo, or finish, a replacement that died between the two renames of `_replace`."""
    for backup in _backups(destination):
        lock = _locked(backup)
        if lock is None:
            continue
        if exists(destination):
            shutil.rmtree(backup, ignore_errors=True)
        else:
            rename_new(backup, destination)
        os.close(lock)


def _replace(staged: Path, destination: Path) -> None:
    """Put `staged` in the place of a destination that exists; afterwards the old one is gone."""
    lock = _locked(destination)
    try:
        if exchange(staged, destination):
            return  # the old one now has the staging name, and goes with it
        backup = destination.with_name(_stem(destination) + "old-" + secrets.token_hex(6))
        destination.rename(backup)
        try:
            staged.rename(destination)
        except BaseException:
            backup.rename(destination)
            raise
        shutil.rmtree(backup, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)


def _sync_tree(directory: Path) -> None:
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
