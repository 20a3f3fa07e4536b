"""The table of positions that is added to what a convolution makes of a picture.

A constant on the convolution's output is the same constant on the table's rows of these positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from normsurgery.anatomy.axes import ADDITIONS, MOVES, operands
from normsurgery.anatomy.linears import as_linear, stored
from normsurgery.anatomy.trace import Node, Trace


@dataclass(frozen=True)
class PositionTable:
    """A stored table, [..., positions, width]; every row from `first` on is a patch's."""

    name: str
    first: int


def position_table(recorded: Trace, made: Node) -> PositionTable | None:
    """The table whose rows are added to what `made` (a convolution) hands on, if nothing else is
    done with it before."""
    node, token = made, _marked(made)
    while node.op not in ADDITIONS:
        if len(node.consumers) != 1:
            return None
        (after,) = node.consumers
        if after.op in ADDITIONS:
            return _added(recorded, after, node, token)
        if after.op not in MOVES:
            return None
        others = {
            other: torch.zeros_like(other.value)
            for other in after.parents
            if other is not node and other.value is not None and other.value.is_floating_point()
        }
        node, token = after, after.rerun({**others, node: token})
    return None


def _marked(made: Node) -> torch.Tensor:
    """Ones: where they come out is what the convolution has made."""
    assert made.value is not None
    return torch.ones_like(made.value)


def _added(recorded: Trace, node: Node, ours: Node, token: torch.Tensor) -> PositionTable | None:
    """The table added to `ours`, whose marked positions are its last rows."""
    other = next((o for o in operands(node) if isinstance(o, Node) and o is not ours), None)
    if other is None or other.value is None or other.value.dim() < 2 or token.dim() != 3:
        return None
    marked = token.bool().all(-1)
    if not bool((marked == marked[:1]).all()) or other.value.shape[-2] != marked.shape[1]:
        return None
    positions = marked[0].nonzero().flatten()
    lookup = as_linear(other)
    table = stored(lookup.weight, 0, lookup.node) if lookup else stored(other, -2, node)
    if lookup is not None:
        if lookup.kind != "embedding" or lookup.argument.value is None:
            return None
        positions = lookup.argument.value.reshape(-1, marked.shape[1])[0][positions]
    if table is None or not _is_alone(recorded, table.name, other):
        return None
    value = recorded.parameters[table.name].value
    assert value is not None
    first = int(positions.min())
    whole = torch.arange(first, value.shape[-2])
    return PositionTable(table.name, first) if torch.equal(positions.sort()[0], whole) else None


def _is_alone(recorded: Trace, table: str, other: Node) -> bool:
    """Whether the addition is the only thing that the table is read for."""
    path, queue = {other}, [other]
    while queue:
        for parent in queue.pop().parents:
            path.add(parent)
            queue.append(parent)
    readers = recorded.parameters[table].consumers
    return all(node in path for node in readers) and len(other.consumers) == 1
