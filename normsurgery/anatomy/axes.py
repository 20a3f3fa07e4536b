"""Follow one axis of a tensor (the channels of a residual stream) through the graph.

Three kinds of functions keep the channels apart and act on all of them alike, so that a mean over
channels passes through them: additions, multiplications by one number a token, and everything that
only moves or averages tokens (views, slices, concatenations, pooling). For the last kind no table
says what each function does to its axes: the function is run again on channel labels, and where
the labels come out tells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.trace import Node

ADDITIONS = {
    "add", "__add__", "__radd__", "__iadd__", "add_",
    "sub", "__sub__", "__rsub__", "__isub__", "sub_", "subtract",
}  # fmt: skip
SCALINGS = {
    "mul", "__mul__", "__rmul__", "__imul__", "mul_", "multiply",
    "div", "__truediv__", "__itruediv__", "div_", "divide", "true_divide",
}  # fmt: skip
MOVES = {
    "view", "reshape", "permute", "transpose", "t", "T", "mT", "swapaxes", "swapdims", "movedim",
    "flatten", "unflatten", "unsqueeze", "squeeze", "expand", "expand_as", "view_as", "reshape_as",
    "contiguous", "clone", "detach", "to", "type", "type_as", "float", "double", "half",
    "bfloat16", "data", "__getitem__", "select", "narrow", "split", "chunk", "unbind",
    "tensor_split", "split_with_sizes", "cat", "concat", "concatenate", "stack", "hstack", "vstack",
    "repeat", "repeat_interleave", "tile", "roll", "flip", "index_select", "gather",
    "take_along_dim", "dropout", "dropout1d", "dropout2d", "dropout3d", "pad", "masked_fill",
    "masked_fill_", "masked_scatter", "where", "__setitem__", "copy_", "index_put", "index_put_",
    "index_add", "index_add_", "scatter_add", "scatter_add_", "index_copy", "scatter", "mean",
    "sum", "cumsum", "interpolate", "upsample", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
}  # fmt: skip


def parent_axis(node: Node, axis: int, parent: Node) -> int | None:
    """The axis of `parent` that becomes `axis` of `node` unmixed, for a node in MOVES."""
    assert node.value is not None and parent.value is not None
    size = node.value.shape[axis]
    for candidate, length in enumerate(parent.value.shape):
        if length == size and _moved_axis(node, parent, candidate) == axis:
            return candidate
    return None


def child_axis(node: Node, parent: Node, axis: int) -> int | None:
    """The axis of `node` (in MOVES) at which `parent`'s `axis` comes out unmixed."""
    return _moved_axis(node, parent, axis)


def _moved_axis(node: Node, parent: Node, axis: int) -> int | None:
    assert node.value is not None and parent.value is not None
    width = parent.value.shape[axis]
    labels = _along(torch.arange(1.0, width + 1.0, dtype=torch.float64), axis, parent.value)
    ones = torch.ones_like(labels)
    silent = {
        other: torch.zeros_like(other.value)
        for other in node.parents
        if other is not parent and other.value is not None and other.value.is_floating_point()
    }
    try:
        labelled = node.rerun({**silent, parent: labels})
        carried = node.rerun({**silent, parent: ones})
    except RuntimeError:
        return None  # the function needs the values that were replaced: not a mere move
    if not carried.any():
        return None
    for candidate in range(labelled.dim()):
        if labelled.shape[candidate] != width:
            continue
        ramp = _along(torch.arange(1.0, width + 1.0, dtype=torch.float64), candidate, labelled)
        if torch.allclose(labelled.double(), carried.double() * ramp, rtol=1e-6, atol=1e-9):
            return candidate
    return None


def _along(values: Tensor, axis: int, like: Tensor) -> Tensor:
    view = [1] * like.dim()
    view[axis] = len(values)
    return values.view(view).expand(like.shape).clone()


def operands(node: Node) -> list[Any]:
    """The two operands of an addition or scaling: nodes or numbers."""
    named = [node.kwargs[key] for key in ("input", "other") if key in node.kwargs]
    return [*node.args, *named][:2]


def aligned_axis(node: Node, axis: int, operand: Node) -> int | None:
    """The axis of a broadcast operand that lines up with `axis` of the result, if it has extent."""
    assert node.value is not None and operand.value is not None
    position = axis - (node.value.dim() - operand.value.dim())
    if position < 0 or operand.value.shape[position] != node.value.shape[axis]:
        return None
    return position


def carriers(node: Node, axis: int) -> list[tuple[Node, int]]:
    """The operands of an addition or scaling that have an extent along `axis`, with their axis."""
    found = []
    for operand in operands(node):
        if isinstance(operand, Node):
            position = aligned_axis(node, axis, operand)
            if position is not None:
                found.append((operand, position))
    return found


def result_axis(node: Node, operand: Node, axis: int) -> int | None:
    """The axis of an addition's or scaling's result that lines up with `axis` of an operand."""
    assert node.value is not None and operand.value is not None
    position = axis + node.value.dim() - operand.value.dim()
    same = node.value.shape[position] == operand.value.shape[axis]
    return position if same else None
