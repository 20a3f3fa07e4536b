"""An output of ours on disk: what surgery.json says of it, and which files belong to it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from normsurgery.checkpoint import hash_files
from normsurgery.checkpoint.files import check_inside, exists, read_small
from normsurgery.checkpoint.text import parse_object, shown
from normsurgery.errors import CheckpointError, UsageError
from normsurgery.report.progress import Progress

PAPERS, CARD = "surgery.json", "README.md"
_MAX_PAPERS = 100_000_000
_HEX = re.compile(r"[0-9a-f]{64}")
_AGAIN = "run the surgery again"
# Not the model, even where the source had it and the surgery therefore carried it over.
_STRAY = (
    (re.compile(r"(.*/)?\..*"), "hidden"),
    (re.compile(r".*(~|\.(bak|orig|sw[a-p]))|(.*/)?#[^/]*#"), "an editor's backup"),
    (re.compile(r".*\.(tmp|temp|part|incomplete|lock|log|pyc)|(.*/)?__pycache__/.*"), "temporary"),
    (
        re.compile(
            r"(.*/)?(optimizer|scheduler|scaler|rng_state\w*|random_states_\w+|training_args"
            r"|trainer_state)\.\w+"
        ),
        "the state of a training run",
    ),
)


@dataclass(frozen=True)
class Output:
    """A directory that one of our commands wrote.

    papers: surgery.json. names: what is to be pushed, sorted, forward slashes. left: what lies
    there besides → why it stays. card: README.md, its odd bytes as surrogates.
    """

    directory: Path
    papers: dict[str, Any]
    names: tuple[str, ...]
    left: dict[str, str]
    card: str

    @property
    def verdict(self) -> str:
        """What verification said of it: pass, fail or skipped; absent where nothing is said."""
        verification = self.papers.get("verification")
        said = verification.get("verdict") if isinstance(verification, dict) else None
        return said if isinstance(said, str) else "absent"

    @property
    def hashes(self) -> dict[str, str]:
        """Name → sha256 in hex of each file to be pushed that surgery.json has a hash of."""
        listed = self.papers["files"]["result"]
        ours = (PAPERS, CARD)
        return {name: listed[name] for name in self.names if name in listed and name not in ours}

    def size(self, name: str) -> int:
        """Bytes of a file on disk."""
        return (self.directory / name).stat().st_size


def read_output(directory: str | Path) -> Output:
    """What lies in a directory of ours. Reads its papers, and no weights.

    Raises UsageError for what is no directory, CheckpointError for a directory that no command of
    ours wrote, or that lacks a file its papers list.
    """
    where = Path(directory)
    papers = read_papers(where)
    listed = papers["files"]["result"]
    present, left = present_files(where)
    known = {PAPERS, CARD, *listed}
    left = {name: "not of the output" for name in present if name not in known} | left
    missing = [name for name in (*listed, CARD) if name not in present and name not in left]
    missing = [name for name in missing if _stray(name) is None]
    if missing:
        raise CheckpointError(f"{shown(missing[0])} is missing from {shown(where.name)}", _AGAIN)
    names = tuple(name for name in present if name not in left)
    for name in names:
        check_inside(where / name, where.resolve())
    card = read_small(where / CARD, _MAX_PAPERS).decode("utf-8", "surrogateescape")
    return Output(where, papers, names, dict(sorted(left.items())), card)


def check_unchanged(output: Output, progress: Progress) -> None:
    """Hash every file that surgery.json has a hash of. Raises CheckpointError if one differs."""
    total = sum(output.size(name) for name in output.hashes)
    changed = []
    with progress.task("check", total, "bytes") as advance:
        for name, sha256 in output.hashes.items():
            (found,) = hash_files([output.directory / name], advance)
            if found.sha256 != sha256:
                changed.append(name)
    if changed:
        raise changed_error(changed)


def changed_error(names: list[str]) -> CheckpointError:
    """For files that are not what surgery.json has a hash of."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return CheckpointError(
        f"{shown(names[0])}{more} changed since it was written: the papers speak of another file",
        f"{_AGAIN}, or upload the folder as your own work with `hf upload`",
    )


def read_papers(where: Path) -> dict[str, Any]:
    """The surgery.json of an output, with a sensible list of its files.

    Raises UsageError for what is no directory, CheckpointError for a directory that no command of
    ours wrote.
    """
    if not where.is_dir():
        raise UsageError(
            f"{shown(where)} is not a directory", "give one that another command has written"
        )
    if not exists(where / PAPERS):
        raise CheckpointError(
            f"{shown(where.name)} has no {PAPERS}: it is not an output of normsurgery",
            "`hf upload` takes any folder",
        )
    check_inside(where / PAPERS, where.resolve())
    papers = parse_object(read_small(where / PAPERS, _MAX_PAPERS), PAPERS, _AGAIN)
    files = papers.get("files")
    listed = files.get("result") if isinstance(files, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{PAPERS} does not list the result's files", _AGAIN)
    for name, sha256 in listed.items():
        if not _is_below(name) or not isinstance(sha256, str) or not _HEX.fullmatch(sha256):
            raise CheckpointError(f"{PAPERS} has no sensible hash for {shown(name)}", _AGAIN)
    return papers


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and str(path) == name


def present_files(where: Path) -> tuple[list[str], dict[str, str]]:
    """Every file below, and those (with directories named once) that are stray whatever is said."""
    present: list[str] = []
    left: dict[str, str] = {}
    for root, directories, files in os.walk(where):
        below = Path(root).relative_to(where)
        for name in list(directories):
            hidden = name.startswith(".")
            if hidden or Path(root, name).is_symlink():
                directories.remove(name)
                left[f"{(below / name).as_posix()}/"] = "hidden" if hidden else "a link"
        present += [(below / name).as_posix() for name in files]
    left |= {name: why for name in present if (why := _stray(name)) is not None}
    return sorted(present), left


def _stray(name: str) -> str | None:
    return next((why for pattern, why in _STRAY if pattern.fullmatch(name)), None)
