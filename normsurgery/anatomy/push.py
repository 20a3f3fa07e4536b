"""Push on a tensor of the traced forward, and see how far and in what form it is felt.

The recorded functions are run again, from the pushed tensor to the next linears with stored
weights: what attention does with a constant in its values is seen there, and nothing else runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.linears import Linear, as_linear, stored
from normsurgery.anatomy.norms import find_norms
from normsurgery.anatomy.trace import NORM, Node, Trace, trace
from normsurgery.anatomy.twin import Twin

_FELT = 1e-10  # of the largest value: rounding in float64 is far below
_TRACES: WeakKeyDictionary[nn.Module, Trace] = WeakKeyDictionary()


def trace_of(twin: Twin) -> Trace:
    """The trace of the twin on its inputs, norms recorded whole; run once for each twin."""
    found = _TRACES.get(twin.model)
    if found is None:
        norms = set(find_norms(twin.model, twin.shapes))
        with Float64():
            found = _TRACES[twin.model] = trace(twin.model, twin.inputs, norms=norms)
    return found


@dataclass(frozen=True)
class Felt:
    """Where a push is felt. changed: node → its new value. linears: those whose argument changed.

    blocked: why it could not be followed to its end, or "".
    """

    changed: Mapping[Node, Tensor]
    linears: tuple[Linear, ...]
    blocked: str = ""


def push(recorded: Trace, node: Node, value: Tensor) -> Felt:
    """Give `node` another value and follow it to the linears with stored weights.

    value: of the node's shape.
    """
    changed: dict[Node, Tensor] = {node: value}
    linears: list[Linear] = []
    exposed = set(recorded.outputs.values())
    queue = [(consumer.index, consumer) for consumer in node.consumers]
    heapify(queue)
    seen: set[Node] = set()
    while queue:
        later = heappop(queue)[1]  # in the order of the forward
        if later in seen:
            continue
        seen.add(later)
        linear = stored_linear(later)
        if linear is not None and linear.argument in changed:
            linears.append(linear)
            continue
        if later.function is None or later.stale:
            what = "a norm" if later.op == NORM else later.op
            return Felt(changed, tuple(linears), f"{later.module or 'the model'} reads it: {what}")
        with Float64():
            new = later.rerun(changed)
        if _differs(new, later.value):
            changed[later] = new
            if later in exposed:
                return Felt(changed, tuple(linears), "it is an output of the model")
            for consumer in later.consumers:
                heappush(queue, (consumer.index, consumer))
    return Felt(changed, tuple(linears))


def stored_linear(node: Node) -> Linear | None:
    """The linear map with a stored weight that `node` computes, if it is one."""
    linear = as_linear(node)
    if linear is None or linear.kind == "embedding":
        return None
    return linear if stored(linear.weight, linear.out_dim, node) is not None else None


def _differs(new: Tensor, old: Tensor | None) -> bool:
    if old is None or not old.is_floating_point():
        return old is not None and not bool((new == old).all())
    where = old.isfinite() & new.isfinite()
    if not bool((old.isfinite() == new.isfinite()).all()):
        return True
    old, new = old[where].double(), new[where].double()
    if not old.numel():
        return False
    # A mask's huge negative number must not hide a change beside it.
    gap = (new - old).abs() / (1 + old.abs())
    return float(gap.max()) > _FELT
