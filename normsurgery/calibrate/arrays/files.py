"""Which files of a folder are samples, and the label that a sub-folder's name gives each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from normsurgery.errors import UsageError
from normsurgery.nearest import path_hint

IMAGES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
SOUNDS = (".wav",)
ARRAYS = (".npy", ".npz")
Kind = Literal["images", "sounds", "arrays"]
_KINDS: dict[Kind, tuple[str, ...]] = {"images": IMAGES, "sounds": SOUNDS, "arrays": ARRAYS}
FORMATS = "images (png, jpeg, webp, …), .wav, or one .npy or .npz"


@dataclass(frozen=True)
class Found:
    """Files of one kind, in order of name. folders: of each the sub-folder that it lies in."""

    kind: Kind
    files: tuple[Path, ...]
    folders: tuple[str, ...] | None = None


def is_array_source(path: Path) -> bool:
    """Whether a path is a folder, or a file of images, sound or arrays: no text."""
    return path.is_dir() or kind_of(path) is not None


def kind_of(file: Path) -> Kind | None:
    """What a file holds, by its suffix; None for what is not read here."""
    suffix = file.suffix.lower()
    return next((kind for kind, known in _KINDS.items() if suffix in known), None)


def find_files(path: Path) -> Found:
    """A file, or those of a folder and its sub-folders (one level: a sub-folder is a label).

    UsageError: no such path, another format, an empty folder, images beside sounds, files both in
    sub-folders and beside them.
    """
    if path.is_file():
        kind = kind_of(path)
        if kind is None:
            raise UsageError(f"{path} is no image, sound or array", f"give {FORMATS}")
        return Found(kind, (path,))
    if not path.is_dir():
        raise UsageError(f"there is no file or folder {path}", path_hint(path))
    beside = _known(path.iterdir())
    below = [file for folder in _folders(path) for file in _known(folder.iterdir())]
    if beside and below:
        raise UsageError(
            f"{path} has files beside its sub-folders: {beside[0].name} has no label",
            "put every file into the sub-folder of its class, or none",
        )
    files = beside or below
    if not files:
        raise UsageError(f"{path} holds no image and no sound", f"give a folder of {FORMATS}")
    folders = tuple(file.parent.name for file in below) if below else None
    return Found(_one_kind(path, files), tuple(files), folders)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _known(files: Iterable[Path]) -> list[Path]:
    """The files that hold samples, in order of name; other files of a folder are no concern."""
    return sorted(
        file
        for file in files
        if file.is_file() and not file.name.startswith(".") and kind_of(file) is not None
    )


def _one_kind(path: Path, files: list[Path]) -> Kind:
    kinds = {kind_of(file): file for file in files}
    if len(kinds) > 1:
        names = " and ".join(file.name for file in kinds.values())
        raise UsageError(f"{path} holds several kinds of data: {names}", "one kind a folder")
    kind = next(iter(kinds))
    if kind == "arrays" and len(files) > 1:
        raise UsageError(f"{path} holds {len(files)} files of arrays", "give one of them")
    assert kind is not None  # `_known` asked for it
    return kind
