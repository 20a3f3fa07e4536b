"""Read one block's writers off the trace of a forward: what is added to its stream, and by what."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from normsurgery.anatomy.axes import ADDITIONS, MOVES, SCALINGS, operands
from normsurgery.anatomy.linears import stored
from normsurgery.anatomy.model import Writer
from normsurgery.anatomy.norms import Norm
from normsurgery.anatomy.region import Region, nonzero, step_back
from normsurgery.anatomy.trace import NORM, ModuleCall, Node
from normsurgery.anatomy.writers import writer_of
from normsurgery.errors import UnsupportedModelError

_BATCHED = {"bmm", "matmul", "__matmul__"}


@dataclass(frozen=True)
class BlockWriter:
    """A weight that adds to the stream inside a block; all names are relative to the block.

    weight: [out, in], [in, out] where transposed, with a leading axis of experts where experts.
    siblings: other weights summed into the same addition (a shared expert, experts in modules of
    their own). norm: between the weight and the stream (Gemma-2, OLMo-2). gain: a per-channel
    parameter that multiplies what it makes (LayerScale). factor: a number that does (Granite).
    silence: parameter → the value that, in all of its entries, makes the contribution zero.
    """

    module: str
    weight: str
    bias: str | None = None
    transposed: bool = False
    experts: bool = False
    siblings: tuple[BlockWriter, ...] = ()
    norm: str | None = None
    gain: str | None = None
    factor: float = 1.0
    silence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Made:
    """One origin of a contribution: a writer as the stream sees it, and what lies between."""

    writer: Writer
    order: int
    norm: Norm | None
    factor: float


class BlockReading:
    """One block's call in the trace."""

    def __init__(
        self,
        name: str,
        call: ModuleCall,
        norms: Mapping[str, Norm],
        shapes: Mapping[str, tuple[int, ...]],
        read: Collection[str],
    ) -> None:
        self.name, self.call, self.norms = name, call, norms
        self.shapes, self.read = shapes, read

    def writers(self) -> tuple[BlockWriter, ...]:
        """The writers, in order of addition."""
        output = self.call.output
        added = self.contributions(output) if output is not None else None
        if added is None:
            raise UnsupportedModelError(
                f"{self.name} does not add to its stream and pass it on: {self.obstacle()}",
                "blocks can be dropped, moved and repeated, but none can be added or refitted",
            )
        found: list[BlockWriter] = []
        for node in added:
            groups = self.groups(self.made(node, node is not added[0]), first=not found)
            found += [self.block_writer(group) for group in groups]
        return tuple(found)

    def obstacle(self) -> str:
        """What stands between the last addition and the block's output."""
        node = self.call.output
        while node is not None and node.op in MOVES and node.parents:
            node = node.parents[0]
        if node is not None and node.op == NORM:
            return f"{node.module} normalizes the stream (post-LN)"
        return f"its output comes from {node.op} in {node.module}" if node else "it returns nothing"

    def contributions(self, node: Node) -> list[Node] | None:
        """What is added between the block's input and `node`, in order; None: not reached."""
        added: list[Node] = []
        while node is not self.call.input:
            if node.index < self.call.started or node.value is None or node.stale:
                return None
            if node.op in MOVES and len(node.parents) == 1:
                node = node.parents[0]
                continue
            if node.op not in ADDITIONS or "sub" in node.op:
                return None
            sides = [side for side in operands(node) if isinstance(side, Node)]
            stream = [side for side in sides if self.contributions(side) is not None]
            if len(sides) != 2 or len(stream) != 1:
                return None
            added.append(sides[1] if stream[0] is sides[0] else sides[0])
            node = stream[0]
        return added[::-1]

    def made(self, node: Node, later: bool) -> list[_Made]:
        """The writers behind one contribution."""
        assert node.value is not None
        dims = node.value.dim()
        for axis in (dims - 1, *([1] if dims == 4 else [])):
            found = self.made_along(node, axis, None, 1.0)
            if found is not None and found:
                return sorted(found, key=lambda made: made.order)
        raise UnsupportedModelError(
            f"what {node.module} adds to the stream of {self.name} is not made by a stored weight",
            "blocks can be dropped, moved and repeated, but none can be added or refitted",
        )

    def made_along(
        self, start: Node, start_axis: int, norm: Norm | None, factor: float
    ) -> list[_Made] | None:
        found: list[_Made] = []
        queue, seen = [(start, start_axis, factor)], set()
        while queue:
            node, axis, factor = queue.pop()
            if node in seen:
                continue
            seen.add(node)
            region = Region(axes={node: axis})
            if node.op == NORM and norm is None:
                inner = self.made_along(node.parents[0], axis, self.norms[node.module], factor)
                if inner is None:
                    return None
                found += inner
                continue
            if node.index < self.call.started and not node.is_parameter:
                return None  # from outside the block
            back = step_back(node, axis, region)
            if back:
                queue += [(parent, position, factor * _number(node)) for parent, position in back]
            elif (writer := _writer(region, node)) is not None:
                found.append(_Made(writer, node.index, norm, factor))
            elif nonzero(node):
                return None
        return found

    def groups(self, made: Sequence[_Made], *, first: bool) -> list[list[_Made]]:
        """Writers of one addition: those of one child of the block belong together.

        Attention and MLP that are added at once (a parallel block) are two groups; a shared expert
        beside the routed ones, after attention has been added, is not.
        """
        if not first:
            return [list(made)]
        by_child: dict[str, list[_Made]] = {}
        for one in made:
            child = one.writer.weight.removeprefix(f"{self.name}.").partition(".")[0]
            by_child.setdefault(child, []).append(one)
        return list(by_child.values())

    def block_writer(self, group: Sequence[_Made]) -> BlockWriter:
        """One writer with its siblings; a lone parameter beside a product is its bias."""
        weights: dict[str, BlockWriter] = {}
        biases: dict[str, str] = {}
        for one in group:
            name = self.relative(one.writer.weight)
            if one.writer.kind == "parameter":
                biases[name.rpartition(".")[0]] = name
            else:
                weights.setdefault(name, self.plain(one))
        for name, like in list(weights.items()):
            weights |= self.unread_siblings(name, like, weights)
        writers = [_with_bias(writer, biases) for writer in weights.values()]
        if not writers:
            raise UnsupportedModelError(
                f"{self.name} adds a parameter to its stream and nothing else",
                "blocks can be dropped, moved and repeated, but none can be added or refitted",
            )
        silence = {k: v for writer in writers for k, v in self.silencing(writer).items()}
        head = next((writer for writer in writers if writer.experts), writers[0])
        rest = tuple(writer for writer in writers if writer is not head)
        return replace(
            head, siblings=rest, silence=silence,
            experts=head.experts or len({_place(w.weight) for w in writers}) < len(writers),
        )  # fmt: skip

    def plain(self, one: _Made) -> BlockWriter:
        writer = one.writer
        dims = len(self.shapes[writer.weight])
        weight = self.relative(writer.weight)
        return BlockWriter(
            module=weight.rpartition(".")[0],
            weight=weight,
            bias=self.relative(writer.bias) if writer.bias else None,
            transposed=writer.stream_dim == dims - 1 and dims > 1,
            experts=dims == 3 and writer.kind == "linear",
            norm=self.relative(one.norm.name) if one.norm else None,
            gain=self.relative(writer.scale) if writer.scale else None,
            factor=one.factor,
        )

    def unread_siblings(
        self, name: str, like: BlockWriter, known: Mapping[str, BlockWriter]
    ) -> dict[str, BlockWriter]:
        """Experts in modules of their own that no token was sent to: they write as `like` does."""
        found = {}
        for full in self.shapes:
            other = self.relative(full)
            if (
                other is None
                or full in self.read
                or other in known
                or _place(other) != _place(name)
            ):
                continue
            module = other.rpartition(".")[0]
            bias = like.bias and f"{module}.{like.bias.rpartition('.')[2]}"
            found[other] = replace(like, module=module, weight=other, bias=bias)
        return found

    def silencing(self, writer: BlockWriter) -> dict[str, float]:
        """A norm that stands after the weight keeps it out by its own gain and bias."""
        norm = self.norms[f"{self.name}.{writer.norm}"] if writer.norm is not None else None
        if norm is not None and norm.weight is not None:
            gain = {f"{writer.norm}.{norm.weight}": 0.0 - norm.offset}
            return gain | ({f"{writer.norm}.{norm.bias}": 0.0} if norm.bias else {})
        return {name: 0.0 for name in (writer.weight, writer.bias) if name is not None}

    def relative(self, name: str) -> Any:
        return name.removeprefix(f"{self.name}.") if name.startswith(f"{self.name}.") else None


def _writer(region: Region, node: Node) -> Writer | None:
    """The stored weight that made a node: one matrix, or a batch of experts' matrices."""
    read = writer_of(region, node)
    if read is not None:
        return read[0]
    if node.op not in _BATCHED or len(node.args) != 2 or not isinstance(node.args[1], Node):
        return None
    weight = node.args[1]
    if weight.value is None or weight.value.dim() != 3 or region.axes[node] != 2:
        return None
    held = stored(weight, 2, node)
    return Writer(held.name, "linear", held.axis, node.module) if held is not None else None


def _with_bias(writer: BlockWriter, biases: Mapping[str, str]) -> BlockWriter:
    if writer.bias is not None or writer.module not in biases:
        return writer
    return replace(writer, bias=biases[writer.module])


def _number(node: Node) -> float:
    """The number that a scaling multiplies by; 1 where it is no plain number."""
    if node.op not in SCALINGS:
        return 1.0
    numbers = [side for side in operands(node) if isinstance(side, (int, float))]
    if len(numbers) != 1:
        return 1.0
    return 1.0 / numbers[0] if "div" in node.op else float(numbers[0])


def _place(name: str) -> str:
    """A parameter's name without the numbers of the modules that hold it."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", name)
