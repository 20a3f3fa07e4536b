"""What was probably meant by a word that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known word most like `word`, whatever its case; None where none is alike.

    cutoff: from 0, anything, to 1, the same letters: the least ratio of difflib's that counts.
    """
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean rotate? `, with a space to go on after; empty where nothing is alike."""
    near = nearest(word, known)
    return f"did you mean {near}? " if near else ""


def choices_hint(word: str, known: Iterable[str]) -> str:
    """A hint for a wrong choice: the likeliest, then all of them in their order."""
    choices = list(known)
    return f"{did_you_mean(word, choices)}one of: {', '.join(choices)}"


def path_hint(path: Path) -> str:
    """A hint for a path that does not exist: the entry of its directory that is most like it."""
    try:
        present = [one.name for one in path.parent.iterdir()]
    except (OSError, ValueError):  # absent, closed to us, or no name of a file at all
        present = []
    near = nearest(path.name, present)
    return f"did you mean {path.parent / near}?" if near else "check the path"
