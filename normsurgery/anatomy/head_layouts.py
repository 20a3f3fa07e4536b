"""How the output of a linear is shared out among queries, keys and values, head by head.

A layout is a rule on sizes, so that what is seen to hold on the twin can be said of the real model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.config_places import Key, find, value_at
from normsurgery.anatomy.shrink import HEADS


@dataclass(frozen=True)
class Rows:
    """Rows of a linear's output. keys: [n], those of the keys. values: [width], for each channel
    that attention hands on, the row that it comes from."""

    keys: Tensor
    values: Tensor


Rule = Callable[[int, int, int], Rows | None]


@dataclass(frozen=True)
class Layout:
    """A rule by its name, and where the configuration holds the heads (None: it needs none)."""

    name: str
    heads: Key | None = None

    def rows(self, size: int, width: int, written: Mapping[str, Any], config: Any) -> Rows | None:
        """The rows of a linear with `size` outputs, `width` channels being handed on.

        written: config.json, which may leave the heads to the defaults of `config`, the
        configuration object. None where the sizes do not fit the rule.
        """
        heads = 1
        if self.heads is not None:
            place = find(written, self.heads, config)
            heads = int(value_at(written if place else config.to_dict(), place or self.heads))
        return _RULES[self.name](size, width, heads)


def told_apart(layout: Layout, twin: Mapping[str, Any], real: Mapping[str, Any]) -> bool:
    """Whether no other tower could be meant: one with as many heads in the twin, but not really.

    twin, real: the configurations as dictionaries.
    """
    if layout.heads is None:
        return True
    alike = [k for k in head_keys(twin) if value_at(twin, k) == value_at(twin, layout.heads)]
    return len({value_at(real, key) for key in alike}) == 1


def layouts(config: Mapping[str, Any]) -> Iterator[Layout]:
    """All that a model with this configuration may have, those that need no heads first."""
    yield from (Layout(name) for name in ("alone", "thirds"))
    for key in head_keys(config):
        yield from (Layout(name, key) for name in ("repeated", "tail", "head by head", "groups"))


def head_keys(config: Mapping[str, Any], at: Key = ()) -> Iterator[Key]:
    """Where a configuration says how many heads there are."""
    for key, value in config.items():
        if key in HEADS and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield (*at, key)
        elif isinstance(value, Mapping):
            yield from head_keys(value, (*at, key))


def _alone(size: int, width: int, heads: int) -> Rows | None:
    """A linear of its own, one row for each channel."""
    return Rows(torch.arange(size), torch.arange(size)) if size == width else None


def _thirds(size: int, width: int, heads: int) -> Rows | None:
    """[queries | keys | values]."""
    if size != 3 * width:
        return None
    return Rows(torch.arange(width, 2 * width), torch.arange(2 * width, 3 * width))


def _repeated(size: int, width: int, heads: int) -> Rows | None:
    """A linear of its own with fewer heads, each shared by neighbouring queries."""
    groups = _grouped(size, width, heads)
    return None if groups is None else Rows(torch.arange(size), groups)


def _tail(size: int, width: int, heads: int) -> Rows | None:
    """[queries | keys | values] with fewer key and value heads."""
    rest, odd = divmod(size - width, 2)
    groups = None if odd or rest <= 0 else _grouped(rest, width, heads)
    if groups is None:
        return None
    return Rows(torch.arange(width, width + rest), groups + width + rest)


def _head_by_head(size: int, width: int, heads: int) -> Rows | None:
    """[query, key, value] for one head after another."""
    if size != 3 * width or width % heads:
        return None
    rows = torch.arange(size).view(heads, 3, width // heads)
    return Rows(rows[:, 1].flatten(), rows[:, 2].flatten())


def _groups(size: int, width: int, heads: int) -> Rows | None:
    """[queries of a group, its key, its value] for one group after another."""
    if width % heads:
        return None
    dim = width // heads
    shared, odd = divmod(size - width, 2 * dim)
    if odd or shared <= 0 or heads % shared:
        return None
    rows = torch.arange(size).view(shared, heads // shared + 2, dim)
    values = rows[:, -1:].expand(shared, heads // shared, dim)
    return Rows(rows[:, -2].flatten(), values.flatten())


def _grouped(size: int, width: int, heads: int) -> Tensor | None:
    if width % heads or size % (width // heads):
        return None
    dim = width // heads
    shared = size // dim
    if not shared or heads % shared:
        return None
    rows = torch.arange(size).view(shared, 1, dim)
    return rows.expand(shared, heads // shared, dim).flatten()


_RULES: dict[str, Rule] = {
    "alone": _alone,
    "thirds": _thirds,
    "repeated": _repeated,
    "tail": _tail,
    "head by head": _head_by_head,
    "groups": _groups,
}
