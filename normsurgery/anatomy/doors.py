"""Where a mean can be removed that no weight holds: at the door of a module.

A door is a module's first argument ("input") or its result ("output"), for a module that runs once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from normsurgery.anatomy.axes import MOVES
from normsurgery.anatomy.norms import Norm
from normsurgery.anatomy.region import Region, explore
from normsurgery.anatomy.trace import ModuleCall, Node, Trace


def output_door(trace: Trace, region: Region, node: Node) -> tuple[str, str] | None:
    """The innermost module, called once, whose result is this very tensor (or a view of it)."""
    names = [call.name for call in trace.calls]
    while node in region.axes:
        if _channels_last(region, node):
            made = [call.name for call in trace.calls if call.output is node and call.name]
            once = [name for name in made if names.count(name) == 1]
            if once:
                return once[0], "output"
        if len(node.consumers) != 1 or node.consumers[0].op not in MOVES:
            break
        node = node.consumers[0]
    return None


def input_door(trace: Trace, region: Region, origin: Node) -> tuple[str, str] | None:
    """The first module that takes the stream in once `origin` is in it and before any norm."""
    for call in _calls_before_norms(trace, region):
        assert call.input is not None
        if _descends(call.input, origin):
            return call.name, "input"
    return None


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
        inside = range(call.started, call.ended)
        # What takes the same tensor elsewhere gets it with its mean: it must not lead back in.
        elsewhere = [c for c in call.input.consumers if c.index not in inside]
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
