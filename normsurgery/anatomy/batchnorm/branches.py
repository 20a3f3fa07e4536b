"""Norms beside a convolution of the same tensor, and convolutions beside convolutions.

A structural re-parameterization (RepVGG, arXiv 2101.03697) trains several branches whose results
are added: convolutions of one tensor, each with its norm, and a norm of the tensor itself. A norm
is a 1x1 depthwise convolution, so beside a stride-1 convolution that keeps the size it is a change
of the centre tap; a small kernel is a large one with zeros around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from normsurgery.anatomy.batchnorm.maps import Use, linear_map
from normsurgery.anatomy.batchnorm.paths import Graph, changed
from normsurgery.anatomy.batchnorm.sites import BatchNorm, BatchNormSite, Merge
from normsurgery.anatomy.trace import NORM, Node

_PLUS = {"add", "__add__", "__radd__", "__iadd__", "add_"}
_MINUS = {"sub", "__sub__", "__isub__", "sub_", "subtract"}


@dataclass(frozen=True)
class Branch:
    """One summand of a sum. use: the convolution that it is, through its norm if it has one."""

    node: Node
    sign: int
    use: Use | None
    norm: Node | None


def find_branch(
    graph: Graph, norm: BatchNorm, calls: list[Node], placed: Mapping[str, BatchNormSite]
) -> BatchNormSite | None:
    """The site of a norm that is a branch beside a convolution of the same tensor, or None.

    placed: sites of the norms that fold into what stands before them, among others.
    """
    chosen = [_beside(graph, call, placed) for call in calls]
    first = chosen[0]
    if first is None or any(
        other is None or (other[0].weight, other[1]) != (first[0].weight, first[1])
        for other in chosen
    ):
        return None
    use, sign = first
    mine = {other[0].node for other in chosen if other is not None}
    if graph.uses_of(use) != mine:
        return None
    centre = tuple(size // 2 for size in use.kernel)
    return BatchNormSite(norm, "branch", (linear_map(use, graph.model),), centre=centre, sign=sign)


def _beside(
    graph: Graph, call: Node, placed: Mapping[str, BatchNormSite]
) -> tuple[Use, int] | None:
    """The largest convolution that the norm's diagonal fits into, and its sign beside the norm."""
    branches = list(_branches(graph, _root(graph, call)))
    own = next((branch for branch in branches if branch.node is call), None)
    if own is None:
        return None
    fitting = [
        branch
        for branch in branches
        if branch.use is not None
        and branch.use.argument is call.parents[0]
        and _takes_diagonal(branch.use)
        and _folds(branch, placed)
    ]
    if not fitting:
        return None
    best = max(fitting, key=_kernel_size)
    assert best.use is not None
    return best.use, best.sign * own.sign


def find_merges(
    graph: Graph, sites: Mapping[str, BatchNormSite], calls: Mapping[str, list[Node]]
) -> list[Merge]:
    """Sums of convolutions of one tensor, and of norms that are branches beside them."""
    found: dict[str, Merge] = {}
    seen: set[Node] = set()
    for call in [node for nodes in calls.values() for node in nodes]:
        root = _root(graph, call)
        if root in seen or root is call:
            continue
        seen.add(root)
        merge = _merge(graph, sites, list(_branches(graph, root)))
        if merge is not None:
            found.setdefault(merge.into.weight, merge)
    return list(found.values())


def _merge(
    graph: Graph, sites: Mapping[str, BatchNormSite], branches: list[Branch]
) -> Merge | None:
    alike = [b for b in branches if b.use is not None and b.sign == 1 and _once(graph, sites, b)]
    if not alike:
        return None
    into = max(alike, key=_kernel_size)
    assert into.use is not None
    others: list[Use] = []
    offsets: list[tuple[int, ...]] = []
    for branch in alike:
        offset = None if branch is into else _offset(into.use, branch.use)
        if offset is not None and branch.use is not None:
            others.append(branch.use)
            offsets.append(offset)
    identities = tuple(
        site.name
        for branch in branches
        if branch.norm is branch.node and branch.sign == 1
        and (site := sites[branch.node.module]).kind == "branch"
        and site.maps[0].weight == into.use.weight.module
    )  # fmt: skip
    if not others and not identities:
        return None
    maps = tuple(linear_map(use, graph.model) for use in others)
    return Merge(linear_map(into.use, graph.model), maps, identities, tuple(offsets))


def _once(graph: Graph, sites: Mapping[str, BatchNormSite], branch: Branch) -> bool:
    """Whether the branch's convolution is this one use and its norm, if any, folds into it."""
    assert branch.use is not None
    if graph.uses_of(branch.use) != {branch.use.node}:
        return False
    return _folds(branch, sites)


def _folds(branch: Branch, sites: Mapping[str, BatchNormSite]) -> bool:
    """Whether nothing is left of the branch's norm, if it has one, but a shift."""
    if branch.norm is None:
        return True
    site = sites.get(branch.norm.module)
    return site is not None and site.kind == "producer" and not site.norm.activates


def _offset(into: Use, other: Use | None) -> tuple[int, ...] | None:
    """Where the other's kernel lies in `into`'s; None where the two do not agree."""
    if other is None or other.argument is not into.argument or not into.kernel:
        return None
    geometry = ("stride", "groups", "transposed", "in_width", "out_width")
    if any(getattr(into, key) != getattr(other, key) for key in geometry) or into.transposed:
        return None
    if into.padding is None or other.padding is None or {*into.dilation, *other.dilation} != {1}:
        return None
    offset = tuple(a - b for a, b in zip(into.padding, other.padding, strict=True))
    ends = zip(offset, other.kernel, into.kernel, strict=True)
    return offset if all(0 <= start <= size - small for start, small, size in ends) else None


def _takes_diagonal(use: Use) -> bool:
    """Whether the convolution keeps place and channels: stride 1, centred, as many out as in."""
    if not use.kernel or use.transposed or use.padding is None or use.in_width != use.out_width:
        return False
    sides = zip(use.kernel, use.padding, use.dilation, strict=True)
    centred = all(size % 2 and 2 * pad == wide * (size - 1) for size, pad, wide in sides)
    return centred and set(use.stride) == {1}


def _kernel_size(branch: Branch) -> int:
    size = 1
    for side in branch.use.kernel if branch.use else ():
        size *= side
    return size


def _root(graph: Graph, node: Node) -> Node:
    """The last sum that `node` goes into without being read on the way."""
    while graph.alone(node) == "" and _summands(node.consumers[0]) is not None:
        node = node.consumers[0]
    return node


def _branches(graph: Graph, root: Node) -> Iterator[Branch]:
    """The summands of a sum, sums among them resolved where nothing else reads those."""
    queue = [(root, 1)]
    while queue:
        node, sign = queue.pop()
        summands = _summands(node) if node is root or graph.alone(node) == "" else None
        if summands is not None:
            queue += [(part, sign * own) for part, own in summands]
        elif graph.alone(node) == "":
            use, norm = _through_norm(graph, node)
            yield Branch(node, sign, use, norm)


def _through_norm(graph: Graph, node: Node) -> tuple[Use | None, Node | None]:
    if node.op != NORM:
        return graph.uses.get(node), None
    made = node.parents[0]
    return (graph.uses.get(made) if graph.alone(made) == "" else None), node


def _summands(node: Node) -> list[tuple[Node, int]] | None:
    """The tensors that a sum or difference adds up, with signs; None where it is neither."""
    if node.op not in _PLUS | _MINUS or "alpha" in node.kwargs or changed(node):
        return None
    operands = [*node.args, *(node.kwargs[key] for key in ("other",) if key in node.kwargs)]
    if len(operands) != 2 or node.value is None:
        return None
    signs = (1, -1) if node.op in _MINUS else (1, 1)
    parts = [(part, sign) for part, sign in zip(operands, signs, strict=True)
             if isinstance(part, Node)]  # fmt: skip
    whole = all(p.value is not None and p.value.shape == node.value.shape for p, _ in parts)
    return parts if whole else None
