"""What writes to a stream: stored weights, and what no stored weight explains."""

from __future__ import annotations

from dataclasses import replace

from normsurgery.anatomy.axes import MOVES, SCALINGS, carriers, parent_axis
from normsurgery.anatomy.linears import (
    Stored,
    as_linear,
    is_attention_map,
    output_axis,
    stored,
)
from normsurgery.anatomy.model import Writer
from normsurgery.anatomy.region import Region, nonzero
from normsurgery.anatomy.trace import Node, Trace


def writers_of(trace: Trace, region: Region) -> tuple[dict[str, Writer], list[Node]]:
    """Origins that are stored weights, by weight name; and those that are not."""
    writers: dict[str, Writer] = {}
    uses: list[Stored] = []
    opaque: list[Node] = []
    for node in region.origins:
        read = writer_of(region, node)
        if read is not None:
            writer, seen = read
            uses += seen
            if writers.setdefault(writer.weight, writer) != writer:
                writer = replace(writer, module=writers[writer.weight].module)
                if writer != writers[writer.weight]:
                    opaque.append(node)  # one weight in two different roles
        elif nonzero(node):
            opaque.append(node)
    shared = shared_uses(trace, uses)
    return (
        {name: replace(w, shared=shared.get(name, "")) for name, w in writers.items()},
        opaque,
    )


def writer_of(region: Region, node: Node) -> tuple[Writer, list[Stored]] | None:
    axis = region.axes[node]
    if node.is_parameter:
        return (
            Writer(node.module, "parameter", axis, node.module.rpartition(".")[0]),
            [Stored(node.module, axis, (c,)) for c in node.consumers if c in region.axes],
        )
    if node.op in SCALINGS:
        return _scaled_writer(region, node, axis)
    linear = as_linear(node)
    if linear is None or output_axis(linear) != axis:
        return None
    if linear.kind == "convolution" and linear.in_dim is None:
        return None  # in groups: its channels read different inputs, so no mean leaves them all
    weight = stored(linear.weight, linear.out_dim, node)
    bias = stored(linear.bias, 0, node) if linear.bias is not None else None
    if weight is None or (linear.bias is not None and bias is None):
        return None
    writer = Writer(weight.name, linear.kind, weight.axis, node.module, bias.name if bias else None)
    return writer, [weight, *([bias] if bias else [])]


def _scaled_writer(region: Region, node: Node, axis: int) -> tuple[Writer, list[Stored]] | None:
    """A linear times a stored per-channel gain (LayerScale), and nobody else reads either."""
    pair = carriers(node, axis)
    if len(pair) != 2 or "div" in node.op:
        return None
    for (gain, gain_axis), (made, made_axis) in (pair, pair[::-1]):
        scale = stored(gain, gain_axis, node)
        inner = sole_source(made, made_axis)
        if scale is None or inner is None or gain.value is None:
            continue
        if gain.value.numel() != gain.value.shape[gain_axis]:
            continue
        region.axes.setdefault(inner[0], inner[1])
        read = writer_of(region, inner[0])
        del region.axes[inner[0]]
        if read is not None and read[0].kind != "parameter":
            return replace(read[0], scale=scale.name), [*read[1], scale]
    return None


def shared_uses(trace: Trace, uses: list[Stored]) -> dict[str, str]:
    """Parameters that something else than these uses also reads, with what does."""
    allowed = {node for use in uses for node in use.path}
    shared: dict[str, str] = {}
    for use in uses:
        for consumer in trace.parameters[use.name].consumers:
            if consumer not in allowed and not is_attention_map(consumer):
                shared[use.name] = consumer.module
        for step in use.path[:-1]:
            if any(consumer not in allowed for consumer in step.consumers):
                shared[use.name] = step.module
    return shared


def sole_source(node: Node, axis: int, *, shared: bool = False) -> tuple[Node, int] | None:
    """Follow a chain of moves back to what made the numbers.

    shared: others may read the tensors on the way too.
    """
    while shared or len(node.consumers) == 1:
        if node.op not in MOVES:
            return node, axis
        floats = [p for p in node.parents if p.value is not None and p.value.is_floating_point()]
        position = parent_axis(node, axis, floats[0]) if len(floats) == 1 else None
        if position is None:
            return None
        node, axis = floats[0], position
    return None
