"""Opening the files of a directory that may be hostile: no FIFO, no link to elsewhere, no hang."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from normsurgery.checkpoint.text import shown
from normsurgery.errors import CheckpointError

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_CHANGED = "let whatever writes there finish, then run again"


@dataclass(frozen=True)
class FileRange:
    """An untouched run of bytes of a file.

    stamp: (inode, size, modification time in ns) of the file when its header was checked.
    """

    path: Path
    offset: int
    length: int
    stamp: tuple[int, int, int] = field(compare=False)


@contextmanager
def opened(path: Path, stamp: tuple[int, int, int] | None = None) -> Iterator[int]:
    """A read-only file descriptor of a regular file; opening never blocks.

    stamp: what `stamp_of` said earlier; CheckpointError if the file is another one by now.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise CheckpointError(f"{shown(path.name)} is missing", "download it again") from None
    except OSError as error:
        raise CheckpointError(
            f"{shown(path.name)} cannot be opened: {error.strerror}",
            "check that it is a readable file",
        ) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "not a file")
            raise CheckpointError(
                f"{shown(path.name)} is {kind}, not a regular file", "replace it by the file itself"
            )
        if stamp is not None and stamp != stamp_of(found):
            raise CheckpointError(f"{shown(path.name)} changed while it was being read", _CHANGED)
        yield descriptor
    finally:
        os.close(descriptor)


def stamp_of(found: os.stat_result) -> tuple[int, int, int]:
    """What identifies a version of a file: inode, size, modification time."""
    return found.st_ino, found.st_size, found.st_mtime_ns


def truncated(path: Path) -> CheckpointError:
    """The error for a file that ended before its header said."""
    return CheckpointError(f"{shown(path.name)} was cut short while it was being read", _CHANGED)


def read_into(run: FileRange, buffer: bytearray) -> Iterator[memoryview]:
    """The bytes of a run piece by piece, each in the same buffer, which is filled but at the end.

    Raises CheckpointError if the file is another one by now, or ends early.
    """
    window = memoryview(buffer)
    with opened(run.path, run.stamp) as descriptor:
        position, end = run.offset, run.offset + run.length
        while position < end:
            filled, wanted = 0, min(len(buffer), end - position)
            while filled < wanted:
                count = os.preadv(descriptor, [window[filled:wanted]], position + filled)
                if count == 0:
                    raise truncated(run.path)
                filled += count
            position += wanted
            yield window[:wanted]


def read_small(path: Path, limit: int) -> bytes:
    """The whole of a regular file of at most `limit` bytes."""
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise CheckpointError(
                f"{shown(path.name)} is {size:,} bytes, more than the {limit:,} that are sensible",
                "this is not the file that transformers writes under this name",
            )
        data = bytearray()
        while piece := os.read(descriptor, 1 << 20):
            data += piece
        return bytes(data)


def exists(path: Path) -> bool:
    """Whether something has this name, a dangling link or a FIFO included."""
    return os.path.lexists(path)


def is_inside(path: Path, directory: Path) -> bool:
    """Whether `path`, links followed, lies in `directory` or in its Hub cache's blobs."""
    try:
        target = path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return False
    if target.is_relative_to(directory):
        return True
    return any(target.is_relative_to(blobs) for blobs in _cache_blobs(directory))


def _cache_blobs(directory: Path) -> list[Path]:
    # CACHE/models--org--name/snapshots/COMMIT holds links into ../../blobs, and those may be links
    # into CACHE/blobs (huggingface_hub's shared store)
    repository = directory.parent.parent
    if directory.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return []
    return [repository / "blobs", repository.parent / "blobs"]


def check_inside(path: Path, directory: Path) -> None:
    """Raise CheckpointError if `path` is a link out of the checkpoint's directory."""
    if not is_inside(path, directory):
        raise CheckpointError(
            f"{shown(path.relative_to(directory))} is a link to outside the directory",
            "copy the file it points to into the directory",
        )


def listed(directory: Path) -> list[str]:
    """Sorted names at the top of a directory. Raises CheckpointError if it cannot be read."""
    with _readable(directory):
        return sorted(path.name for path in directory.iterdir())


@contextmanager
def _readable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{shown(directory.name)} cannot be listed: {error.strerror}",
            "check that it is yours to read",
        ) from None


def _scanned(directory: Path) -> list[os.DirEntry[str]]:
    with _readable(directory), os.scandir(directory) as entries:
        return list(entries)


def walk(directory: Path) -> Iterator[str]:
    """Relative names (forward slashes, sorted) of everything below that is not a directory.

    Directories that are links are not entered: their name is yielded. Hidden Hub and git
    bookkeeping at the top is skipped.
    """
    pending = [directory]
    names: list[str] = []
    while pending:
        for entry in _scanned(pending.pop()):
            relative = Path(entry.path).relative_to(directory).as_posix()
            if relative.startswith((".cache", ".git", ".huggingface")):
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            else:
                names.append(relative)
    yield from sorted(names)
