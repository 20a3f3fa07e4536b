"""Files on disk held against the hashes that surgery.json has of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from normsurgery.checkpoint import hash_files, open_checkpoint
from normsurgery.checkpoint.files import check_inside
from normsurgery.errors import SurgeryError
from normsurgery.report.page.page import CHANGED, MATCH, MISSING, NOT_READ, FileState
from normsurgery.report.progress import Progress


def states(listed: Mapping[str, str], directory: Path, progress: Progress) -> list[FileState]:
    """Every listed file as it is now. listed: name → the sha256 in hex that it had.

    Raises CheckpointError for one that a link puts outside of the directory.
    """
    there = {name for name in listed if (directory / name).exists()}
    for name in there:
        check_inside(directory / name, directory.resolve())
    total = sum((directory / name).stat().st_size for name in there)
    found = []
    with progress.task("check", total, "bytes") as advance:
        for name, sha256 in listed.items():
            now = MISSING
            if name in there:
                (record,) = hash_files([directory / name], advance)
                now = MATCH if record.sha256 == sha256 else CHANGED
            found.append(FileState(name, sha256, now))
    return found


def unread(listed: Mapping[str, str]) -> list[FileState]:
    """The same for files that nobody looks at."""
    return [FileState(name, sha256, NOT_READ) for name, sha256 in listed.items()]


def changed(files: Sequence[FileState]) -> list[str]:
    """Names of files that are not what they were."""
    return [one.name for one in files if one.now in (CHANGED, MISSING)]


def weights_size(directory: Path) -> dict[str, int] | None:
    """Parameters and bytes of the weights in a directory, by their headers; None if unreadable."""
    try:
        checkpoint = open_checkpoint(directory, allow_pickle=False)
    except SurgeryError:
        return None
    tensors = list(checkpoint.values())
    return {
        "parameters": sum(tensor.numel for tensor in tensors),
        "bytes": sum(tensor.nbytes for tensor in tensors),
    }
