"""Explore one residual stream: every tensor that is the same vector up to tokens and sums.

From a norm's input, walk back through additions, scalings and moves to whatever makes the numbers,
and forward to whatever reads them. The result says nothing yet of what may be done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from normsurgery.anatomy.axes import (
    ADDITIONS,
    MOVES,
    SCALINGS,
    carriers,
    child_axis,
    operands,
    parent_axis,
    result_axis,
)
from normsurgery.anatomy.norms import Norm
from normsurgery.anatomy.trace import NORM, Node

_ZEROS = {"zeros", "zeros_like", "new_zeros"}


@dataclass(eq=False)
class Region:
    """Nodes of one stream with their channel axis, and its border.

    origins: nodes that make the numbers. offsets: nodes that add a constant along the channels.
    readers: LayerNorm nodes. raw_reads: (stream node, consumer) pairs that see the mean.
    residual: whether something written to it was computed from it.
    """

    axes: dict[Node, int] = field(default_factory=dict)
    origins: list[Node] = field(default_factory=list)
    offsets: list[Node] = field(default_factory=list)
    readers: list[Node] = field(default_factory=list)
    raw_reads: list[tuple[Node, Node]] = field(default_factory=list)
    mixed: list[Node] = field(default_factory=list)
    residual: bool = False

    def absorb(self, other: Region) -> None:
        """Take in another stream that the same modules read and write."""
        self.axes |= other.axes
        self.residual |= other.residual
        for name in ("origins", "offsets", "readers", "raw_reads", "mixed"):
            getattr(self, name).extend(getattr(other, name))


def explore(
    start: Node, axis: int, norms: Mapping[str, Norm], *, cut: Node | None = None
) -> Region:
    """The stream that `start` belongs to, its channels along `axis`.

    cut: a node where the stream begins anew (its mean is removed there): nothing before it counts.
    """
    region = Region()
    queue = [(start, axis)]
    while queue:
        node, axis = queue.pop()
        if node in region.axes:
            if region.axes[node] != axis:
                region.mixed.append(node)
            continue
        region.axes[node] = axis
        if node.stale:
            region.mixed.append(node)
        if node is not cut:
            queue += step_back(node, axis, region)
        if not node.is_parameter:  # other readers of a weight do not read the stream
            queue += _forward(node, axis, norms, region)
    return region


def step_back(node: Node, axis: int, region: Region) -> list[tuple[Node, int]]:
    """What `node` got its numbers from, unmixed; noted as an origin where it made them itself."""
    if node.op in ADDITIONS:
        found = carriers(node, axis)
        held = {parent for parent, _ in found}
        if any(nonzero(operand) for operand in operands(node) if operand not in held):
            region.offsets.append(node)
        return found
    if node.op in SCALINGS:
        found = carriers(node, axis)
        if len(found) == 1 and _is_numerator(node, found[0][0]):
            return found
    if node.op in MOVES:
        parents = [p for p in node.parents if p.value is not None and p.value.is_floating_point()]
        axes = [(parent, parent_axis(node, axis, parent)) for parent in parents]
        found = [(parent, position) for parent, position in axes if position is not None]
        # Numbers that lie otherwise in the tensor (a table filled in by halves) make it an origin.
        if found and not any(position is None and nonzero(parent) for parent, position in axes):
            return found
    region.origins.append(node)
    return []


def _forward(
    node: Node, axis: int, norms: Mapping[str, Norm], region: Region
) -> list[tuple[Node, int]]:
    reached: list[tuple[Node, int]] = []
    for consumer in node.consumers:
        if consumer.op == NORM:
            norm = norms[consumer.module]
            assert node.value is not None
            if norm.kind == "LayerNorm" and norm.axis % node.value.dim() == axis:
                region.readers.append(consumer)
            else:
                region.raw_reads.append((node, consumer))
            continue
        position = passed_on(node, axis, consumer)
        if position is None:
            region.raw_reads.append((node, consumer))
        else:
            reached.append((consumer, position))
    return reached


def passed_on(node: Node, axis: int, consumer: Node) -> int | None:
    """The channel axis of a consumer that keeps the channels apart, or None for a raw read."""
    if consumer.value is None:
        return None
    if consumer.op in ADDITIONS:
        return result_axis(consumer, node, axis)
    if consumer.op in SCALINGS:
        position = result_axis(consumer, node, axis)
        if position is None or len(carriers(consumer, position)) != 1:
            return None
        return position if _is_numerator(consumer, node) else None
    if consumer.op in MOVES:
        return child_axis(consumer, node, axis)
    return None


def _is_numerator(node: Node, operand: Node) -> bool:
    return "div" not in node.op or operands(node)[0] is operand


def nonzero(operand: object) -> bool:
    """Whether an operand of an addition adds anything."""
    if isinstance(operand, Node):
        if operand.op in _ZEROS:  # its value may have been filled in since
            return False
        return operand.value is None or bool(operand.value.any())
    return operand != 0
