"""Follow a channel axis from a tensor to what made it or what reads it.

A path may only pass functions that `a ⊙ x + c` along the channels passes unchanged: those that move
or average positions. A list says which may, a numeric check with random a (negative too) and c says
whether this call of it does. Padding, masking and everything nonlinear stop a path.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normsurgery.anatomy.axes import child_axis, parent_axis
from normsurgery.anatomy.batchnorm.maps import Use, all_reads, find_uses
from normsurgery.anatomy.batchnorm.readers import Readers
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.trace import NORM, Node, Trace

PASSES = {
    "view", "reshape", "permute", "transpose", "t", "T", "mT", "swapaxes", "swapdims", "movedim",
    "flatten", "unflatten", "unsqueeze", "squeeze", "view_as", "reshape_as", "contiguous", "clone",
    "detach", "to", "type", "type_as", "float", "double", "half", "bfloat16", "data",
    "__getitem__", "select", "narrow", "split", "chunk", "unbind", "flip", "roll", "dropout",
    "dropout1d", "dropout2d", "dropout3d", "mean", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "interpolate",
}  # fmt: skip
_UNSEEN = "{} is read by kernels that the trace does not see"


@dataclass(frozen=True)
class Graph:
    """A traced forward with its second witness.

    uses: node → the stored map that it is a use of. exposed: nodes that the model hands out.
    """

    model: nn.Module
    recorded: Trace
    readers: Readers
    uses: dict[Node, Use]
    exposed: frozenset[Node]

    @classmethod
    def of(cls, model: nn.Module, recorded: Trace, readers: Readers) -> Graph:
        exposed = frozenset(recorded.outputs.values())
        return cls(model, recorded, readers, find_uses(recorded), exposed)

    def uses_of(self, use: Use) -> set[Node] | None:
        """All uses of this map's tensors; None where something else reads one of them."""
        found: set[Node] = set()
        for tensor in filter(None, (use.weight, use.bias)):
            for read in all_reads(tensor):
                other = self.uses.get(read)
                if other is None or (other.weight, other.bias) != (use.weight, use.bias):
                    return None
                found.add(read)
        return found

    def alone(self, node: Node) -> str:
        """Why `node` is not read by exactly one other, or ""."""
        if node in self.exposed:
            return "is an output of the model"
        if changed(node):
            return "is changed in place"
        if len(node.consumers) > 1:
            return f"is read by {_listed(node.consumers)}"
        return "" if node.consumers else "is read by nothing that the trace sees"

    def confirmed(self, nodes: Iterable[Node], times: int = 1) -> bool:
        """Whether the second witness has counted that many reads of each tensor's memory."""
        values = [node.value for node in nodes if node.value is not None]
        return all(self.readers.of(value) == times for value in values)


def changed(node: Node) -> bool:
    """Whether the tensor's memory was written to after the node was made."""
    return node.stale


def back(graph: Graph, node: Node, axis: int) -> tuple[Use | None, str]:
    """The map whose output, its channels unmixed, is all that `node` is; or None and why not.

    node: what a norm reads. axis: its channel axis. Every tensor on the way has one reader.
    """
    passed: list[Node] = []
    while True:
        if (trouble := graph.alone(node)) != "":
            return None, f"the output of {named(node)} {trouble}"
        passed.append(node)
        use = graph.uses.get(node)
        if use is not None and not graph.confirmed(passed):
            return None, _UNSEEN.format(f"the output of {named(node)}")
        if use is not None:
            return (use, "") if use.output_axis == axis else (None, _off_axis(node))
        if node.op not in PASSES:
            return None, _stop(node)
        step = _step_back(node, axis)
        if step is None:
            return None, f"{named(node)} before it does not keep its channels apart"
        node, axis = step


def forth(graph: Graph, node: Node, axis: int) -> tuple[list[Use], str]:
    """The maps that read `node` (a norm's output) and nothing else; or why there are others.

    None of them may pad with zeros: at the border the shift would be missing.
    """
    found: list[Use] = []
    queue = [(node, axis)]
    while queue:
        current, axis = queue.pop()
        if current in graph.exposed:
            return [], "its output is an output of the model"
        if changed(current):
            return [], "its output is changed in place"
        for consumer in current.consumers:
            if consumer.op in PASSES:
                position = _passed(consumer, current, axis)
                if position is None:
                    return [], f"{named(consumer)} after it does not keep its channels apart"
                queue.append((consumer, position))
                continue
            use = graph.uses.get(consumer)
            trouble = _cannot_absorb(use, current, axis, consumer)
            if use is None or trouble:
                return [], trouble
            found.append(use)
    if found and not graph.confirmed([node], _kernels(node)):
        return [], _UNSEEN.format("its output")
    return (found, "") if found else ([], "nothing reads it")


def _kernels(node: Node) -> int:
    """How many kernels should have read a norm's memory: views of it are read further on."""
    assert node.value is not None
    memory = node.value.untyped_storage().data_ptr()
    count = 0
    queue = list(node.consumers)
    while queue:
        reader = queue.pop()
        view = reader.value is not None and reader.value.untyped_storage().data_ptr() == memory
        queue += reader.consumers if view else []
        count += not view
    return count


def named(node: Node) -> str:
    """What to call a node in a reason."""
    if node.is_parameter or node.op in ("buffer", "constant"):
        return node.module or f"a {node.op}"
    where = f" in {node.module}" if node.module else ""
    return node.module if node.op == NORM else f"{node.op.strip('_')}{where}"


def _listed(nodes: list[Node]) -> str:
    names = list(dict.fromkeys(named(node) for node in nodes))
    return " and ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _stop(node: Node) -> str:
    if node.op in ("parameter", "buffer", "constant"):
        return "no linear map stands before it"
    if node.op == NORM:
        return f"the norm {node.module} stands before it"
    return f"{named(node)} stands before it"


def _off_axis(node: Node) -> str:
    return f"it normalizes along another axis than the channels of {named(node)}"


def _cannot_absorb(use: Use | None, current: Node, axis: int, consumer: Node) -> str:
    where = consumer.module or "the model's forward"
    if use is None:
        return f"{where} reads it with {consumer.op.strip('_')}"
    if use.argument is not current or current in (use.weight, use.bias):
        return f"{where} reads it as a weight"
    if use.transposed:
        return f"a transposed convolution ({where}) reads it: its border takes fewer taps"
    if use.padding is None or any(use.padding):
        return f"a zero-padded convolution ({where}) reads it: the border would be wrong"
    if use.argument_axis != axis:
        return f"{where} contracts another axis"
    return ""


def _step_back(node: Node, axis: int) -> tuple[Node, int] | None:
    for parent in node.parents:
        if parent.value is None or not parent.value.is_floating_point():
            continue
        with Float64():
            position = parent_axis(node, axis, parent)
        if position is not None and _commutes(node, parent, position, axis):
            return parent, position
    return None


def _passed(node: Node, parent: Node, axis: int) -> int | None:
    with Float64():
        position = child_axis(node, parent, axis)
    if position is None or not _commutes(node, parent, axis, position):
        return None
    return position


def _commutes(node: Node, parent: Node, before: int, after: int) -> bool:
    """Whether node(a ⊙ x + c) = a ⊙ node(x) + c, along these axes of the parent and the node."""
    assert parent.value is not None
    generator = torch.Generator().manual_seed(node.index)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    width = parent.value.shape[before]
    values, gain, shift = random(*parent.value.shape), random(width), random(width)

    def mapped(tensor: Tensor, axis: int) -> Tensor:
        view = [1] * tensor.dim()
        view[axis] = width
        return tensor * gain.view(view) + shift.view(view)

    with torch.no_grad(), Float64():
        plain = node.rerun({parent: values})
        moved = node.rerun({parent: mapped(values, before)})
    return bool(torch.allclose(moved, mapped(plain, after), rtol=1e-9, atol=1e-9))
