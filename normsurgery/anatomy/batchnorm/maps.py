"""The uses of stored convolutions and linears in a trace, with their geometry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from normsurgery.anatomy.batchnorm.sites import LinearMap
from normsurgery.anatomy.trace import Node, Trace

_CONVOLUTIONS = {f"conv{dims}d": dims for dims in (1, 2, 3)}
_TRANSPOSED = {f"conv_transpose{dims}d": dims for dims in (1, 2, 3)}
_NAMES = ("input", "weight", "bias", "stride", "padding")
_CONVOLUTION_ARGS = (*_NAMES, "dilation", "groups")
_TRANSPOSED_ARGS = (*_NAMES, "output_padding", "groups", "dilation")
_PRODUCTS = {"matmul", "__matmul__", "mm"}
# What a weight may pass through before it is used, and stay the same numbers in the same places.
_CASTS = {
    "to", "float", "double", "half", "bfloat16", "type", "type_as", "contiguous", "detach", "data",
    "clone",
}  # fmt: skip
_SWAPS = {"t", "T", "mT", "transpose"}
_SQUEEZES = {"squeeze", "unsqueeze", "view", "reshape", "flatten", "__getitem__"}


@dataclass(frozen=True, eq=False)
class Use:
    """One call of a stored map: `node = weight ∗ argument + bias`.

    out_dim, in_dim: axes of the stored weight. The geometry of a linear is empty. padding: None
    where the call asks for zeros by a word ("same").
    """

    node: Node
    argument: Node
    weight: Node
    bias: Node | None
    out_dim: int
    in_dim: int
    groups: int = 1
    transposed: bool = False
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | None = ()
    dilation: tuple[int, ...] = ()

    @property
    def output_axis(self) -> int:
        assert self.node.value is not None
        return self.node.value.dim() - len(self.kernel) - 1

    @property
    def argument_axis(self) -> int:
        assert self.argument.value is not None
        return self.argument.value.dim() - len(self.kernel) - 1

    @property
    def in_width(self) -> int:
        assert self.argument.value is not None
        return self.argument.value.shape[self.argument_axis]

    @property
    def out_width(self) -> int:
        assert self.node.value is not None
        return self.node.value.shape[self.output_axis]


def find_uses(recorded: Trace) -> dict[Node, Use]:
    """Every use of a stored map in the trace."""
    found = ((node, _use(node)) for node in recorded.nodes)
    return {node: use for node, use in found if use is not None}


def all_reads(parameter: Node) -> Iterator[Node]:
    """The nodes that read a parameter, through casts and transposes."""
    queue = list(parameter.consumers)
    while queue:
        node = queue.pop()
        if node.op in _CASTS | _SWAPS | _SQUEEZES:
            queue += node.consumers
        else:
            yield node


def linear_map(use: Use, model: nn.Module) -> LinearMap:
    """The map that is used, in the model's own names."""
    name = use.weight.module
    owner = name.rpartition(".")[0]
    own = use.node.module == owner
    module = model.get_submodule(owner)
    has_place = use.bias is not None or (own and module._parameters.get("bias", module) is None)
    return LinearMap(
        owner if own else "", name, use.bias.module if use.bias else None, use.out_dim, use.in_dim,
        use.groups, use.transposed, has_place,
    )  # fmt: skip


def _use(node: Node) -> Use | None:
    if node.value is None or not node.value.is_floating_point():
        return None
    if node.op in _CONVOLUTIONS:
        return _convolution(node, _CONVOLUTIONS[node.op], transposed=False)
    if node.op in _TRANSPOSED:
        return _convolution(node, _TRANSPOSED[node.op], transposed=True)
    if node.op == "linear":
        named = _arguments(node, ("input", "weight", "bias"))
        return _stored_use(node, named, 0, 1)
    if node.op == "addmm":
        named = _arguments(node, ("bias", "input", "weight"))
        return _stored_use(node, named, 1, 0)
    if node.op in _PRODUCTS:
        named = _arguments(node, ("input", "weight"))
        weight = named.get("weight")
        if isinstance(weight, Node) and weight.value is not None and weight.value.dim() == 2:
            return _stored_use(node, named, 1, 0)
    return None


def _arguments(node: Node, names: tuple[str, ...]) -> dict[str, Any]:
    return dict(zip(names, node.args, strict=False)) | node.kwargs


def _convolution(node: Node, dims: int, *, transposed: bool) -> Use | None:
    named = _arguments(node, _TRANSPOSED_ARGS if transposed else _CONVOLUTION_ARGS)
    weight = named["weight"]
    if not isinstance(weight, Node) or weight.value is None:
        return None
    padding = named.get("padding", 0)
    return _stored_use(
        node, named, int(transposed), int(not transposed), transposed=transposed,
        groups=named.get("groups", 1), kernel=tuple(weight.value.shape[2:]),
        stride=_each(named.get("stride", 1), dims), dilation=_each(named.get("dilation", 1), dims),
        padding=_worded(padding, dims) if isinstance(padding, str) else _each(padding, dims),
    )  # fmt: skip


def _worded(padding: str, dims: int) -> tuple[int, ...] | None:
    return (0,) * dims if padding == "valid" else None


def _each(value: int | tuple[int, ...] | list[int], dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def _stored_use(
    node: Node, named: dict[str, Any], out_dim: int, in_dim: int, **geometry: Any
) -> Use | None:
    argument, bias = named["input"], named.get("bias")
    weight = _parameter(named["weight"])
    if not isinstance(argument, Node) or argument.value is None or weight is None:
        return None
    stored, swapped = weight
    if bias is not None and (bias := _plain_parameter(bias)) is None:
        return None
    if swapped:
        out_dim, in_dim = in_dim, out_dim
    return Use(node, argument, stored, bias, out_dim, in_dim, **geometry)


def _plain_parameter(node: Any) -> Node | None:
    found = _parameter(node)
    return found[0] if found is not None and not found[1] else None


def _parameter(node: Any) -> tuple[Node, bool] | None:
    """The parameter behind a weight argument, and whether its first two axes are swapped."""
    swapped = False
    while isinstance(node, Node) and not node.is_parameter:
        if node.stale or len(node.parents) != 1 or not _keeps(node, node.parents[0]):
            return None
        swapped ^= node.op in _SWAPS
        node = node.parents[0]
    return (node, swapped) if isinstance(node, Node) else None


def _keeps(node: Node, parent: Node) -> bool:
    """Whether `node` holds all numbers of `parent`, its first two axes kept or swapped."""
    if node.value is None or parent.value is None:
        return False
    ours, theirs = node.value.shape, parent.value.shape
    if node.op in _CASTS:
        return ours == theirs
    if node.op in _SWAPS:
        return len(theirs) == 2
    same = node.value.numel() == parent.value.numel()
    return node.op in _SQUEEZES and same and ours[:2] == theirs[:2]
