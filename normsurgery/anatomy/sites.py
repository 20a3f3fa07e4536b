"""Norm sites: who reads a norm's output, whether γ and β can move there, and what role it has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import Tensor

from normsurgery.anatomy.axes import MOVES, child_axis
from normsurgery.anatomy.linears import as_linear, stored
from normsurgery.anatomy.model import Block, NormSite, Reader
from normsurgery.anatomy.norms import Norm
from normsurgery.anatomy.trace import Node, Trace

SOFTMAX = {"softmax", "_safe_softmax"}


def is_score(value: Tensor) -> bool:
    """Whether a softmax's input looks like scores of positions against positions.

    Heads make four axes of it, or three where they are folded into the batch; a router's softmax
    over experts has fewer, or no square.
    """
    return value.dim() >= 4 or (value.dim() == 3 and value.shape[-1] == value.shape[-2])


def _is_attention(node: Node) -> bool:
    if node.op in SOFTMAX:
        return node.value is not None and is_score(node.value)
    return node.op == "scaled_dot_product_attention"


def blocks_of(modules: Iterable[str]) -> list[Block]:
    """Lists of repeated layers: module lists with the most layers at the top of each stack."""
    counts: dict[str, set[int]] = {}
    for name in modules:
        match = re.fullmatch(r"(.*?)\.(\d+)", name)
        if match and not re.search(r"\.\d+(\.|$)", match.group(1)):
            counts.setdefault(match.group(1), set()).add(int(match.group(2)))
    return [Block(name, len(found)) for name, found in counts.items() if len(found) >= 1]


def in_blocks(module: str, blocks: Sequence[Block]) -> bool:
    """Whether a module is part of a repeated layer."""
    return any(module.startswith(f"{block.name}.") for block in blocks)


def place(module: str) -> str:
    """A module's name without the numbers of its blocks."""
    return re.sub(r"\d+", "#", module)


def repeated(modules: Iterable[str]) -> list[str]:
    """Those of a stream's modules that stand at the same place in several blocks."""
    names = list(modules)
    places = [place(name) for name in names]
    return [name for name in names if places.count(place(name)) > 1]


def innermost_blocks(modules: Iterable[str]) -> set[str]:
    """The innermost repeated layers that these modules are part of."""
    matches = (re.match(r"(.*\.\d+)\.", name) for name in modules)
    return {match.group(1) for match in matches if match}


def common_module(modules: Sequence[str]) -> str:
    """The innermost module that holds them all; "" for the model itself."""
    paths = [name.split(".")[:-1] for name in modules]
    shared = []
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def site_of(
    node: Node,
    norm: Norm,
    trace: Trace,
    in_streams: set[Node],
    blocks: Sequence[Block],
    *,
    residual: bool,
) -> NormSite:
    """The site of one norm node. in_streams: every node of a residual stream."""
    readers, unfoldable = _readers(node, norm, trace)
    role = _role(node, trace, in_streams, blocks, residual)
    return NormSite(norm, role, tuple(readers), unfoldable, _table(node))


def _table(node: Node) -> str | None:
    """The embedding that the norm reads straight away, if nothing else reads the lookup."""
    lookup = as_linear(node.parents[0])
    if lookup is None or lookup.kind != "embedding" or len(lookup.node.consumers) != 1:
        return None
    weight = stored(lookup.weight, lookup.out_dim, lookup.node)
    return weight.name if weight else None


def _readers(node: Node, norm: Norm, trace: Trace) -> tuple[list[Reader], str]:
    assert node.value is not None
    found: dict[str, Reader] = {}
    reads: list[tuple[str, Node]] = []
    queue = [(node, norm.axis % node.value.dim())]
    seen: set[Node] = set()
    exposed = set(trace.outputs.values())
    while queue:
        current, axis = queue.pop()
        if current in exposed:
            return list(found.values()), "its output is an output of the model"
        seen.add(current)
        for consumer in current.consumers:
            position = child_axis(consumer, current, axis) if consumer.op in MOVES else None
            if position is not None:
                if consumer not in seen:
                    queue.append((consumer, position))
                continue
            reader = reader_of(current, axis, consumer)
            if reader is None:
                where = consumer.module or "the model's forward"
                return list(found.values()), f"{where} reads it with {consumer.op}"
            found[reader.weight] = reader
            reads.append((reader.weight, consumer))
    for name in found:
        # A stack of experts is read once an expert: those reads are all of this norm's output.
        ours = {consumer for weight, consumer in reads if weight == name}
        others = [c for c in trace.parameters[name].consumers if c not in ours]
        strange = [c for c in others if not ours.intersection(c.consumers)]
        if strange:
            return list(found.values()), f"{name} is read by {strange[0].module} too"
    return list(found.values()), "" if found else "nothing reads it"


def reader_of(current: Node, axis: int, consumer: Node) -> Reader | None:
    """The linear with stored weights that contracts `axis` of `current` in `consumer`, if any."""
    linear = as_linear(consumer)
    if linear is None or linear.kind != "linear" or linear.argument is not current:
        return None
    assert current.value is not None
    if linear.in_dim is None or axis != current.value.dim() - 1:
        return None
    weight = stored(linear.weight, linear.in_dim, consumer)
    bias = stored(linear.bias, 0, consumer) if linear.bias is not None else None
    if weight is None or (linear.bias is not None and bias is None):
        return None
    return Reader(weight.name, weight.axis, consumer.module, bias.name if bias else None)


def _role(
    node: Node, trace: Trace, in_streams: set[Node], blocks: Sequence[Block], residual: bool
) -> str:
    inside = in_blocks(node.module, blocks)
    if not residual and not inside:
        started = any(in_blocks(other.module, blocks) for other in trace.nodes[: node.index])
        return "head" if started else "stem"
    if not residual:
        return "inner"
    if not inside:
        return "final"
    closures = [_closure(consumer, in_streams) for consumer in node.consumers]
    scores = {found for closure in closures for found in closure if _is_attention(found)}
    mixing = scores.union(*(_closure(score, in_streams) for score in scores))
    kinds = {"attention" if closure & mixing else "mlp" for closure in closures}
    return " + ".join(sorted(kinds))


def _closure(start: Node, in_streams: set[Node]) -> set[Node]:
    """Everything computed from `start` before it is written back to a stream."""
    seen: set[Node] = set()
    queue = [start]
    while queue:
        node = queue.pop()
        if node not in seen and node not in in_streams:
            seen.add(node)
            queue += node.consumers
    return seen
