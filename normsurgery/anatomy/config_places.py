"""Places in a configuration: paths into nested dictionaries and lists, and edits at them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Key: TypeAlias = tuple[str | int, ...]


def integers(tree: Any, at: Key = ()) -> Iterator[tuple[Key, int]]:
    """The integers of a configuration, with their places."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from integers(value, (*at, key))
    elif isinstance(tree, (list, tuple)):
        for position, value in enumerate(tree):
            yield from integers(value, (*at, position))
    elif isinstance(tree, int) and not isinstance(tree, bool):
        yield at, tree


def value_at(tree: Any, key: Key) -> Any:
    """The value at a place; KeyError, IndexError or TypeError where there is none."""
    for step in key:
        tree = tree[step]
    return tree


def set_at(tree: Any, key: Key, value: Any) -> None:
    """Put a value at a place whose parent exists."""
    value_at(tree, key[:-1])[key[-1]] = value


def holds(tree: Any, key: Key, config: Any = None) -> bool:
    """Whether a configuration file says what stands at a place, under this or another name."""
    return find(tree, key, config) is not None


def find(tree: Any, key: Key, config: Any = None) -> Key | None:
    """Where a configuration file holds a place of the filled-in configuration.

    config: the configuration object; its `attribute_map` tells other names. A part that an old
    file spells out at the top level is found there. None: nowhere.
    """
    parents = [key[:-1]]
    if len(key) > 1 and isinstance(key[0], str) and key[0] not in tree:
        parents = [()]
    for parent in parents:
        for name in (key[-1], *_other_names(config, key)):
            try:
                value_at(tree, (*parent, name))
            except (KeyError, IndexError, TypeError):
                continue
            return (*parent, name)
    return None


def _other_names(config: Any, key: Key) -> list[str]:
    """Names that the class accepts in place of the last step."""
    for step in key[:-1]:
        config = getattr(config, step, None) if isinstance(step, str) else None
    renamed: Mapping[str, str] = getattr(config, "attribute_map", None) or {}
    return [other for other, name in renamed.items() if name == key[-1]]


def edited(written: Mapping[str, Any], edits: Mapping[Key, Any], config: Any) -> dict[str, Any]:
    """config.json with the edits, everything else as it was.

    A part that the file leaves to the class's defaults is written out before it is edited.
    """
    result: dict[str, Any] = copy.deepcopy(dict(written))
    for key, value in edits.items():
        place = find(result, key, config)
        if place is None:
            _write_out(result, key[:-1], config.to_dict())
            place = key
        set_at(result, place, value)
    return result


def _write_out(result: dict[str, Any], key: Key, full: Mapping[str, Any]) -> None:
    """Make sure that the place exists: with the filled-in values from where it does not."""
    for end in range(1, len(key) + 1):
        try:
            value_at(result, key[:end])
        except (KeyError, IndexError, TypeError):
            set_at(result, key[:end], copy.deepcopy(value_at(full, key[:end])))
            return


def pattern_length(value: Any) -> int | None:
    """How many blocks a compressed pattern [[[kind, …], times], …] speaks of, None if it is none.

    GPT-Neo: [[["global", "local"], 12]].
    """
    if not isinstance(value, list) or not value:
        return None
    pairs = all(
        isinstance(item, (list, tuple))
        and len(item) == 2
        and isinstance(item[0], (list, tuple))
        and len(item[0]) > 0
        and type(item[1]) is int
        for item in value
    )
    return sum(len(kinds) * times for kinds, times in value) if pairs else None


def written_out(value: Any) -> list[Any]:
    """The entries by block of a list, a string or a compressed pattern."""
    if pattern_length(value) is not None:
        return [kind for kinds, times in value for _ in range(times) for kind in kinds]
    return list(value)


def compressed(entries: Sequence[Any], like: Any) -> Any:
    """Entries by block in the form that `like` has."""
    if pattern_length(like) is not None:
        return [[list(entries), 1]] if entries else []
    return "".join(entries) if isinstance(like, str) else list(entries)
