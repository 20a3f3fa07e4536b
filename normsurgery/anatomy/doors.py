"""Where a mean can be removed that no weight holds: at the door of a module.

A door is a module's first argument ("input") or its result ("output").
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from normsurgery.anatomy.axes import MOVES, SCALINGS
from normsurgery.anatomy.model import Block
from normsurgery.anatomy.norms import Norm
from normsurgery.anatomy.region import Region, explore
from normsurgery.anatomy.sites import in_blocks
from normsurgery.anatomy.trace import ModuleCall, Node, Trace


def output_door(
    trace: Trace, region: Region, node: Node, streams: Collection[Node]
) -> tuple[str, str] | None:
    """The innermost module whose result is this very tensor (or a view or a multiple of it).

    streams: nodes of all streams; whatever else the module is called for must be in one of them.
    """
    outside = {call.name for call in trace.calls if call.output not in streams}
    while node in region.axes:
        if _channels_last(region, node):
            for call in trace.calls:
                if call.output is node and call.plain and _unread(node, call):
                    if call.name and call.name not in outside:
                        return call.name, "output"
        if len(node.consumers) != 1 or node.consumers[0].op not in MOVES | SCALINGS:
            break
        node = node.consumers[0]
    return None


def _unread(node: Node, call: ModuleCall) -> bool:
    """Whether the module hands its result over without having read it itself."""
    return not any(reader.index < call.ended for reader in node.consumers)


def norm_door(region: Region, origin: Node, blocks: Sequence[Block]) -> tuple[str, str] | None:
    """The norm that alone reads what `origin` writes, if no block has it (a final norm)."""
    names = {r.module for r in region.readers if _descends(r.parents[0], origin)}
    name = names.pop() if len(names) == 1 else ""
    return (name, "input") if name and not in_blocks(name, blocks) else None


def input_door(trace: Trace, region: Region, origin: Node) -> tuple[str, str] | None:
    """The first module that takes the stream in once `origin` is in it and before any norm."""
    for call in _calls_before_norms(trace, region):
        assert call.input is not None
        stream = [c for c in _elsewhere(call) if c in region.axes or c in region.readers]
        if not stream and _descends(call.input, origin):
            return call.name, "input"
    return None


def _elsewhere(call: ModuleCall) -> list[Node]:
    """What takes the module's argument outside of the module, and so with its mean."""
    assert call.input is not None
    inside = range(call.started, call.ended)
    return [consumer for consumer in call.input.consumers if consumer.index not in inside]


def later_starts(
    trace: Trace, region: Region, norms: Mapping[str, Norm]
) -> Iterator[tuple[ModuleCall, Region]]:
    """Doors before all norms of the stream, and the stream as it is from there on, first to last.

    What reads the stream raw before the door does not matter any more.
    """
    names = [call.name for call in trace.calls]
    for call in _calls_before_norms(trace, region):
        assert call.input is not None
        rest = explore(call.input, region.axes[call.input], norms, cut=call.input)
        elsewhere = _elsewhere(call)  # must not lead back in
        if names.count(call.name) == 1 and not any(c in rest.axes for c in elsewhere):
            rest.readers = [r for r in rest.readers if r not in elsewhere]
            rest.raw_reads = [(n, c) for n, c in rest.raw_reads if c not in elsewhere]
            yield call, rest


def _calls_before_norms(trace: Trace, region: Region) -> Iterator[ModuleCall]:
    """Module calls, outermost first, whose argument is the stream that every norm then reads."""
    read = [reader.parents[0] for reader in region.readers]
    for call in sorted(trace.calls, key=lambda call: (call.started, call.name.count("."))):
        node = call.input
        if node is None or not call.name or not _channels_last(region, node):
            continue
        if all(_descends(tensor, node) for tensor in read):
            yield call


def _channels_last(region: Region, node: Node) -> bool:
    assert node.value is not None
    return region.axes.get(node) == node.value.dim() - 1


def _descends(node: Node, ancestor: Node) -> bool:
    seen: set[Node] = set()
    queue = [node]
    while queue:
        current = queue.pop()
        if current is ancestor:
            return True
        if current not in seen and current.index > ancestor.index:
            seen.add(current)
            queue += current.parents
    return False
