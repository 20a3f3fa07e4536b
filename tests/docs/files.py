"""Files that a page may name without having made them: text, pictures, the clone's own folders."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.docs.pages import ROOT

_SAMPLES = ROOT / "normsurgery" / "calibrate" / "text" / "samples"
_LETTERS = 60_000  # some 20,000 tokens of the shipped tokenizer


def _text(which: str) -> str:
    return lzma.decompress((_SAMPLES / f"{which}.txt.xz").read_bytes()).decode()[:_LETTERS]


def _plain(path: Path) -> None:
    path.write_text(_text("drama"), encoding="utf-8")


def _lines(path: Path) -> None:
    text = _text("prose")
    parts = [text[at : at + 2000] for at in range(0, len(text), 2000)]
    path.write_text("".join(json.dumps({"text": part}) + "\n" for part in parts))


def picture(seed: int) -> Any:
    """A small picture of noise."""
    from PIL import Image

    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    )


def _photo(path: Path, seed: int = 0) -> None:
    picture(seed).save(path)


def _folders(path: Path) -> None:
    for at in range(12):
        folder = path / ("cat", "dog")[at % 2]
        folder.mkdir(parents=True, exist_ok=True)
        _photo(folder / f"{at}.png", at)


def _photos(path: Path) -> None:
    path.mkdir()
    for at in range(24):
        _photo(path / f"{at}.png", at)


def _clone(path: Path) -> None:
    path.symlink_to(ROOT / path.name)


# name → what makes it; a page has those whose name stands in its text
FILES: dict[str, Callable[[Path], None]] = {
    "text.jsonl": _lines,
    "train.jsonl": _lines,
    "text.txt": _plain,
    "held-out.txt": _plain,
    "other.txt": _plain,
    "photo.png": _photo,
    "images": _folders,
    "photos": _photos,
    "recipes": _clone,
    "tests": _clone,
}


def with_recipes(text: str) -> str:
    """The page's text and that of the recipes that it names: they name models, too."""
    named = [path for path in (ROOT / "recipes").glob("*.yaml") if path.name in text]
    return "\n".join([text, *(path.read_text(encoding="utf-8") for path in named)])


def make_files(text: str, directory: Path) -> None:
    """Make in `directory` what the page's text names."""
    for name, make in FILES.items():
        if name in text:
            make(directory / name)
