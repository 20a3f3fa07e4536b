"""What changed between two configurations, key by key, and what a verification measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from normsurgery.report.numbers import ABSENT, figure
from normsurgery.report.page.blocks import Table, table, words

Figures = Mapping[str, Any]
_GONE = "absent"
_SPELLED = 4  # values of a list that are shown as they are


def config_table(changes: Mapping[str, Sequence[Any]], label: str) -> Table:
    """before → after of every key, nested ones with dots."""
    rows = [
        (key, words(*_value(before)), words(*_value(after)))
        for name, (old, new) in changes.items()
        for key, before, after in _leaves(name, old, new)
    ]
    return table(("key", "before", "after"), rows, label=label, code=(0, 1, 2))


def _leaves(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The keys below that differ; a mapping that is on one side only is gone through too."""
    sides = [value for value in (old, new) if value]
    if sides and all(isinstance(value, Mapping) for value in sides):
        before, after = old or {}, new or {}
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                yield from _leaves(f"{name}.{key}", before.get(key), after.get(key))
    else:
        yield name, old, new


def _value(value: Any) -> tuple[str, str]:
    """As JSON has it, and the style."""
    return (_GONE, "dim") if value is None else (json.dumps(value, ensure_ascii=False), "")


def every_figure(forms: Mapping[str, Figures]) -> Table:
    """All that was measured: a row for each key, with dots, a column for each form."""
    flat = {name: dict(_flat(one, "")) for name, one in forms.items()}
    keys = dict.fromkeys(key for one in flat.values() for key in one)
    rows = [(key, *(one.get(key, ABSENT) for one in flat.values())) for key in keys]
    numbers = range(1, len(flat) + 1)
    return table(("figure", *flat), rows, label="Every figure", numbers=numbers, code=(0,))


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        said = ", ".join(_said(one) for one in value[:_SPELLED])
        more = f", and {len(value) - _SPELLED} more" if len(value) > _SPELLED else ""
        yield name, f"{said}{more}" or "none"
    else:
        yield name, _said(value)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return figure(value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    return ABSENT if value is None else str(value)
