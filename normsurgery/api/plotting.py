"""`--plots`: what a surgery measured is drawn into its staged output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from normsurgery.checkpoint import FileRecord, hash_files
from normsurgery.plots import FOLDER, Picture, pictures, save


def drawn(
    document: Mapping[str, Any], staged: Path
) -> tuple[list[dict[str, Any]], list[FileRecord]]:
    """Draw a document below a staged directory; its `plots`, and the files with their hashes.

    A source that is an output of ours brings pictures of its own, which its card below ours still
    shows: a name that is taken gets a number.
    """
    found = [_named(picture, staged / FOLDER) for picture in pictures(document)]
    names = save(found, staged)
    entries = [
        {"name": picture.name, "title": picture.title, "caption": picture.caption}
        for picture in found
    ]
    records = hash_files([staged / name for name in names])
    return entries, [replace(one, name=f"{FOLDER}/{one.name}", kind="side") for one in records]


def _named(picture: Picture, folder: Path) -> Picture:
    name, number = picture.name, 1
    while any((folder / f"{name}.{form}").exists() for form in ("png", "svg")):
        number += 1
        name = f"{picture.name}-{number}"
    return replace(picture, name=name)
