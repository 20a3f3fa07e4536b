"""Recognise the nodes that multiply by a stored weight, and find that weight."""

from __future__ import annotations

from dataclasses import dataclass

from normsurgery.anatomy.axes import MOVES, parent_axis
from normsurgery.anatomy.trace import Node

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
_ATTENTION = "multi_head_attention_forward"  # of nn.MultiheadAttention; ends in a projection
_GROUPS = 6  # the position of a convolution's argument groups
_OUT_BIAS = 12  # the position of its argument out_proj_bias
_PRODUCTS = {"matmul", "__matmul__", "mm", "bmm"}


@dataclass(frozen=True)
class Stored:
    """A parameter (by name) seen from one of its uses: `axis` is its axis of interest.

    path: the nodes between the parameter and the use, the use itself last.
    """

    name: str
    axis: int
    path: tuple[Node, ...]


@dataclass(frozen=True)
class Linear:
    """y = W x + b as a node: the weight's output and input axes, the bias, the argument."""

    node: Node
    kind: str
    weight: Node
    out_dim: int
    in_dim: int | None
    argument: Node
    bias: Node | None = None


def as_linear(node: Node) -> Linear | None:
    """The linear map that `node` computes, whatever function it is written with."""
    named = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
    if node.op == "linear":
        return _linear(node, "linear", named["weight"], 0, 1, named["input"], named.get("bias"))
    if node.op in _CONVOLUTIONS:
        groups = node.args[_GROUPS] if len(node.args) > _GROUPS else named.get("groups", 1)
        in_dim = 1 if groups == 1 else None
        return _linear(
            node, "convolution", named["weight"], 0, in_dim, named["input"], named.get("bias")
        )
    if node.op == "embedding":
        return _linear(node, "embedding", named["weight"], 1, None, named["input"], None)
    if node.op == "addmm" and len(node.args) >= 3:
        return _linear(node, "linear", node.args[2], 1, 0, node.args[1], node.args[0])
    if node.op == _ATTENTION and node.output == 0 and len(node.args) > _OUT_BIAS:
        query, weight, bias = node.args[0], node.args[_OUT_BIAS - 1], node.args[_OUT_BIAS]
        return _linear(node, "linear", weight, 0, None, query, bias)
    if node.op in _PRODUCTS and len(node.args) == 2:
        second = node.args[1]
        if isinstance(second, Node) and second.value is not None and second.value.dim() == 2:
            return _linear(node, "linear", second, 1, 0, node.args[0], None)
    return None


def is_attention_map(node: Node) -> bool:
    """The second result of nn.MultiheadAttention, which its last projection has no part in."""
    return node.op == _ATTENTION and node.output > 0


def _linear(
    node: Node, kind: str, weight: object, out_dim: int, in_dim: int | None,
    argument: object, bias: object,
) -> Linear | None:  # fmt: skip
    if not isinstance(weight, Node) or not isinstance(argument, Node):
        return None
    if bias is not None and not isinstance(bias, Node):
        return None
    return Linear(node, kind, weight, out_dim, in_dim, argument, bias)


def output_axis(linear: Linear) -> int:
    """The axis of the node's value along which the weight's outputs lie."""
    assert linear.node.value is not None
    return 1 if linear.kind == "convolution" else linear.node.value.dim() - 1


def stored(node: Node, axis: int, use: Node) -> Stored | None:
    """The parameter behind a weight argument, through views, slices and casts; None if computed."""
    path = [use]
    while not node.is_parameter:
        if node.op not in MOVES or node.stale:
            return None
        source = next(
            (
                (parent, position)
                for parent in node.parents
                if (position := _float_parent_axis(node, axis, parent)) is not None
            ),
            None,
        )
        if source is None:
            return None
        path.append(node)
        node, axis = source
    return Stored(node.module, axis, tuple(reversed(path)))


def _float_parent_axis(node: Node, axis: int, parent: Node) -> int | None:
    if parent.value is None or not parent.value.is_floating_point():
        return None
    return parent_axis(node, axis, parent)
