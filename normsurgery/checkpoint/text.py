"""Bounded JSON, and names that are safe to print in a one-line message."""

from __future__ import annotations

import json
from typing import Any

from normsurgery.errors import CheckpointError

_SHOWN = 80
_MAX_DEPTH = 64  # what is parsed here is later copied and written by recursive code


def shown(name: object) -> str:
    """A name as it may stand in an error: one line, printable, at most 80 characters."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class _DuplicateKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return result


def parse_object(
    data: bytes, what: str, hint: str, *, unique: bool = False, twice: str = "names {} twice"
) -> dict[str, Any]:
    """The JSON object in `data`; `what` names it in errors, `hint` is theirs.

    unique: refuse a repeated key, with the words of `twice`.
    Raises CheckpointError for bad UTF-8, bad JSON, absurd nesting or numbers, or another JSON type.
    """
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique if unique else None)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what} is not UTF-8 (byte {error.start})", hint) from None
    except _DuplicateKeyError as error:
        raise CheckpointError(f"{what} {twice.format(shown(error.args[0]))}", hint) from None
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{what} is not JSON ({error.msg}, line {error.lineno} column {error.colno})", hint
        ) from None
    except RecursionError:
        raise CheckpointError(f"{what} is nested too deeply", hint) from None
    except ValueError:  # an integer of thousands of digits
        raise CheckpointError(f"{what} holds an absurd number", hint) from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{what} is not a JSON object", hint)
    if _depth(document) > _MAX_DEPTH:
        raise CheckpointError(f"{what} is nested too deeply", hint)
    return document


def _depth(document: Any) -> int:
    depth, level = 0, [document]
    while level and depth <= _MAX_DEPTH:
        depth += 1
        children = (part.values() if isinstance(part, dict) else part for part in level)
        level = [c for inner in children for c in inner if isinstance(c, dict | list)]
    return depth
