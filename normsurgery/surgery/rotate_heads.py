"""Rotate every value head, and the columns of the output projection that read it back (R2).

Contract: exact. Attention is linear in its values, so V ← R V in each key-value head and
O ← O Rᵀ in each query head that reads it give the same. Source: SpinQuant, arXiv 2405.16406.
Which channels make a head is felt on the twin (`anatomy.value_heads`); how many heads the real
model has is what its configuration says, wherever that explains the twin and fits the real shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.shrink import HEADS, HIDDEN, KEY_VALUE_HEADS
from normsurgery.anatomy.value_heads import ValueHeads, read_value_heads, weight_axes
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError

Rule = tuple[str, str, str]  # where in the configuration, the key of heads, that of value heads
# Rows of the values' linear, in heads (of queries, of keys or values): v; k and v; q, k and v.
_ROWS = ((0, 1), (0, 2), (1, 2))


@dataclass(frozen=True)
class HeadSite:
    """One attention's two linears: parameter names and axes. heads: what the twin showed.

    rules: where the configuration has the twin's numbers of heads. layout: how the twin's value
    channels lie in the rows of their linear.
    """

    name: str
    heads: ValueHeads
    values: str
    values_axis: int
    bias: str | None
    output: str
    output_axis: int
    rules: tuple[Rule, ...]
    layout: tuple[tuple[int, int] | None, bool]


@dataclass(frozen=True)
class Pieces:
    """Value heads in a checkpoint: their width, and where they start on each side."""

    width: int
    values: tuple[int, ...]
    output: tuple[int, ...]


def read_head_sites(examination: Examination) -> tuple[list[HeadSite], dict[str, str]]:
    """The attentions whose value heads can be rotated, and why others cannot."""
    model = examination.twin.model
    found, left = read_value_heads(examination.twin)
    config = model.config.to_dict()
    sites = []
    for name, heads in found.items():
        made, read = model.get_submodule(heads.values), model.get_submodule(heads.output)
        own, other = weight_axes(made), weight_axes(read)
        assert own is not None and other is not None
        numbers = (heads.heads, len(heads.starts))
        rules = tuple(rule for rule, held in _head_numbers(config) if held == numbers)
        rows = made.weight.shape[own[0]]
        layout = _layout(rows, heads)
        if not rules or layout is None:
            left[name] = "the configuration does not say how its value heads lie"
            continue
        has_bias = made.bias is not None
        sites.append(
            HeadSite(
                name, heads, f"{heads.values}.weight", own[0],
                f"{heads.values}.bias" if has_bias else None,
                f"{heads.output}.weight", other[1], rules, layout,
            )
        )  # fmt: skip
    return sites, left


def pieces_of(
    source: Checkpoint, names: NameMap, site: HeadSite, config: Mapping[str, Any]
) -> Pieces | str:
    """Where the heads lie in a checkpoint of this configuration, or why that cannot be told."""
    try:
        rows = _length(source, names, site.values, site.values_axis)
        columns = _length(source, names, site.output, site.output_axis)
        width = _length(source, names, site.output, 1 - site.output_axis)
    except UnsupportedModelError as error:
        return error.message
    held = [(rule, n) for rule, n in _head_numbers(config) if rule in site.rules]
    fitting = {
        (rule, pieces)
        for rule, numbers in held
        if (pieces := _pieces(rows, columns, numbers, site.layout)) is not None
    }
    if len({pieces for _, pieces in fitting}) > 1:  # towers with other numbers of heads
        wide = {place for place, part in _parts(config) if width in _values(part, HIDDEN)}
        fitting = {(rule, pieces) for rule, pieces in fitting if rule[0] in wide}
    different = {pieces for _, pieces in fitting}
    if len(different) != 1:
        return "the configuration does not say how many value heads it has"
    return next(iter(different))


def _length(source: Checkpoint, names: NameMap, parameter: str, axis: int) -> int:
    name, part = names.on_disk(parameter)[0]
    if part.cuts_along(axis):
        raise UnsupportedModelError(f"{name} holds only some of the heads of {parameter}")
    return source[name].shape[part.axis(axis)]


def _layout(rows: int, heads: ValueHeads) -> tuple[tuple[int, int] | None, bool] | None:
    """How many heads the rows are, and whether values lie together at their end (else each value
    head at the end of its group); None where neither is so."""
    count, width = len(heads.starts), heads.width
    known = next((r for r in _ROWS if rows == (r[0] * heads.heads + r[1] * count) * width), None)
    for together in (True, False):
        if heads.starts == _starts(rows, count, width, together) and (known or not together):
            return known, together
    return None


def _starts(rows: int, count: int, width: int, together: bool) -> tuple[int, ...]:
    if together:
        return tuple(rows - width * (count - k) for k in range(count))
    stride = rows // count
    return tuple(stride * (k + 1) - width for k in range(count))


def _pieces(
    rows: int,
    columns: int,
    numbers: tuple[int, int],
    layout: tuple[tuple[int, int] | None, bool],
) -> Pieces | None:
    heads, count = numbers
    known, together = layout
    width, odd = divmod(columns, heads)
    if odd or heads % count or rows % count or rows < count * width or width < 2:
        return None
    if known and rows != (known[0] * heads + known[1] * count) * width:
        return None
    output = tuple(width * k for k in range(heads))
    return Pieces(width, _starts(rows, count, width, together), output)


def _head_numbers(config: Mapping[str, Any]) -> Iterator[tuple[Rule, tuple[int, int]]]:
    """Every pair (heads, value heads) that a configuration may mean, and where it stands."""
    for place, part in _parts(config):
        for key in HEADS:
            heads = part.get(key)
            if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1:
                continue
            yield (place, key, "as many"), (heads, heads)
            yield (place, key, "one"), (heads, 1)
            for own in KEY_VALUE_HEADS:
                count = part.get(own)
                if isinstance(count, int) and not isinstance(count, bool) and count > 0:
                    yield (place, key, own), (heads, count)


def _parts(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield place, config
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _parts(value, f"{place}.{key}" if place else key)


def _values(part: Mapping[str, Any], keys: tuple[str, ...]) -> set[Any]:
    return {part[key] for key in keys if isinstance(part.get(key), int)}
