"""The YAML block at the head of a model card: found, and merged without touching other keys.

Merging is textual, because a round trip through YAML changes what it does not understand
(`language: no` is Norwegian, not false). It is checked by reading the result back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

_BLOCK = re.compile(r"\A\ufeff?---[ \t]*\r?\n(?P<front>(?:[^\n]*\n)*?)---[ \t]*(?:\r?\n|\Z)")
_KEY = re.compile(r"""^(?P<quote>["']?)(?P<key>[\w.-]+)(?P=quote)[ \t]*:(?:[ \t]|\r?$)""")
_YIELDING = ("library_name",)  # the source knows better


def split(card: str) -> tuple[str, str]:
    """The front matter's text (without the dashes) and the body.

    A block that is no YAML mapping, or that uses aliases (which can grow without bound), is left
    in the body.
    """
    found = _BLOCK.match(card)
    if found is None:
        return "", card
    front = found["front"].replace("\r\n", "\n")
    if _mapping(front) is None:
        return "", card
    return front, card[found.end() :]


def metadata(card: str) -> dict[str, Any]:
    """The front matter's keys and values; empty where there is none, or none that can be read."""
    return _mapping(split(card)[0]) or {}


def broken(card: str) -> bool:
    """Whether the card begins with front matter that `split` leaves in the body."""
    found = _BLOCK.match(card)
    return found is not None and _mapping(found["front"].replace("\r\n", "\n")) is None


def salvaged(card: str, keys: Collection[str]) -> str:
    """Of front matter that is broken as a whole: those of the keys that can be read alone."""
    found = _BLOCK.match(card)
    if found is None:
        return ""
    pieces = _pieces(found["front"].replace("\r\n", "\n"))
    return "".join(
        text for key, text in pieces if key in keys and set(_mapping(text) or ()) == {key}
    )


def merged(
    front: str,
    ours: Mapping[str, Any],
    *,
    without: Collection[str] = (),
    drop_tags: Collection[str] = (),
    yielding: bool = False,
) -> str:
    """Front matter with our keys in it, dashes included. Tags are united, others replaced.

    without, drop_tags: keys and tags of theirs that go. yielding: what is there stays as it is,
    and only tags and keys that are missing are added.
    """
    import yaml

    theirs = {k: v for k, v in (_mapping(front) or {}).items() if k not in without}
    yields = theirs if yielding else _YIELDING
    new = {key: value for key, value in ours.items() if key not in yields or key not in theirs}
    if "tags" in ours:
        new["tags"] = _united(theirs.get("tags"), ours["tags"], drop_tags)
    if new.get("tags") == theirs.get("tags"):
        new.pop("tags", None)
    wanted = {**theirs, **new}
    kept = "".join(
        text for key, text in _pieces(front) if key not in new and key not in without
    ).lstrip("\n")
    text = kept + (yaml.safe_dump(new, sort_keys=False, allow_unicode=True) if new else "")
    if (_mapping(text) or {}) != wanted:
        text = yaml.safe_dump(wanted, sort_keys=False)  # escapes what YAML would fold away
    return f"---\n{text}---\n"


def _mapping(text: str) -> dict[str, Any] | None:
    import yaml

    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            return None
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None


def _pieces(front: str) -> list[tuple[str | None, str]]:
    """Each top-level key with its lines; what stands before the first has no key."""
    pieces: list[tuple[str | None, str]] = []
    for line in front.removesuffix("\n").split("\n"):  # splitlines also cuts at U+0085, U+2028 …
        found = _KEY.match(line)
        if found or not pieces:
            pieces.append((found["key"] if found else None, ""))
        key, text = pieces[-1]
        pieces[-1] = (key, f"{text}{line}\n")
    return pieces


def _united(theirs: Any, ours: list[str], gone: Collection[str]) -> list[Any]:
    given = theirs if isinstance(theirs, list) else [] if theirs is None else [theirs]
    given = [tag for tag in given if tag not in gone or tag in ours]
    return [*given, *(tag for tag in ours if tag not in given)]
