"""What adds to the stream inside a block: found by walking back from what the block returns.

Between a block's input and its output there are additions; one operand of each is the stream, the
other a contribution. Behind a contribution stand the weights that make it: a linear, a stack of
experts, several linears in a sum, perhaps with a norm or a gain between them and the stream. A
numeric witness follows: with all of them silenced every block of the twin must be the identity.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.axes import ADDITIONS, MOVES, SCALINGS, operands
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.model import Writer
from normsurgery.anatomy.norms import Norm, find_norms
from normsurgery.anatomy.region import Region, nonzero, step_back
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.stacks import Stack, noted_calls, run_twin
from normsurgery.anatomy.trace import NORM, ModuleCall, Node, trace
from normsurgery.anatomy.writers import writer_of
from normsurgery.errors import UnsupportedModelError, VerificationError

IDENTITY_BOUND = 1e-12  # × the stream's largest entry, in float64


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


@single_thread()
def block_writers(examination: Examination, stack: Stack) -> tuple[tuple[BlockWriter, ...], ...]:
    """The writers of every block of a stack, in the order in which they are added.

    Raises UnsupportedModelError where a block is not its stream plus what weights make of it
    (post-LN: the stream itself is normalized), VerificationError where the witness disagrees.
    """
    twin = examination.twin
    norms = find_norms(twin.model, twin.shapes)
    with torch.random.fork_rng(devices=[]), Float64():
        torch.manual_seed(0)
        recorded = trace(twin.model, twin.inputs, norms=set(norms))
    calls = {call.name: call for call in recorded.calls}
    shapes = {name: tuple(p.shape) for name, p in twin.model.named_parameters()}
    read = set(recorded.parameters)
    found = tuple(
        _Block(block, calls[block], norms, shapes, read).writers() for block in stack.blocks
    )
    with silenced(twin.model, stack, found):
        _witness_identity(examination, stack)
    return found


@contextmanager
def silenced(
    model: nn.Module, stack: Stack, writers: Sequence[Sequence[BlockWriter]]
) -> Iterator[None]:
    """The model with every writer's contribution made zero, as it was afterwards."""
    before: dict[Tensor, Tensor] = {}
    with torch.no_grad():
        for block, own in zip(stack.blocks, writers, strict=True):
            for name, value in silence_of(own).items():
                parameter = model.get_parameter(f"{block}.{name}")
                before.setdefault(parameter, parameter.detach().clone())
                parameter.fill_(value)
        try:
            yield
        finally:
            for changed, values in before.items():
                changed.copy_(values)


def silence_of(writers: Sequence[BlockWriter]) -> dict[str, float]:
    """Parameter of the block → the value that fills it in a block that is to be the identity."""
    return {name: value for writer in writers for name, value in writer.silence.items()}


def _witness_identity(examination: Examination, stack: Stack) -> None:
    with noted_calls(examination.twin.model, stack.blocks) as calls:
        run_twin(examination.twin)
    for call in calls:
        error = float((call.returned - call.taken).abs().max())
        if not error <= IDENTITY_BOUND * float(call.taken.abs().max()):
            raise VerificationError(
                f"{call.block} changes the stream by {error:.1e} although its writers are zero",
                "the trace misread this model: please report its id",
            )


@dataclass(frozen=True)
class _Made:
    """One origin of a contribution: a writer as the stream sees it, and what lies between."""

    writer: Writer
    order: int
    norm: Norm | None
    factor: float


class _Block:
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
            elif (read := writer_of(region, node)) is not None:
                found.append(_Made(read[0], node.index, norm, factor))
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
