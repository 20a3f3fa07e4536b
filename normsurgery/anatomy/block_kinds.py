"""What kind of block each block of a stack is: whatever its class makes of the configuration.

A kind is read off the model built without storage: the classes of the block's modules, the names
and shapes of its parameters and buffers, and the plain attributes that the modules hold (a window,
a layer type, a scale). Attributes that merely number the blocks are told apart from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Kind: TypeAlias = Mapping[str, Any]  # what → value
ABSENT = "nothing"
_PARAMETER, _BUFFER = "parameter ", "buffer "


@dataclass(frozen=True)
class Mismatch:
    """Block `block` of a result would have `got` where its source has `wanted`."""

    block: int
    what: str
    wanted: Any
    got: Any

    def __str__(self) -> str:
        return f"block {self.block} would have {self.what} = {self.got} in place of {self.wanted}"


@dataclass(frozen=True)
class Kinds:
    """Every block's kind, and the shapes of all parameters outside the stack.

    numbering: attribute → the number that it has in block 0, for those that count the blocks.
    shared: lists with an entry a block, which speak of the whole stack and are left out.
    """

    blocks: tuple[Kind, ...]
    outside: Mapping[str, tuple[int, ...]]
    numbering: Mapping[str, int]
    shared: frozenset[str] = frozenset()

    def mismatches(self, made: Kinds, order: Sequence[int]) -> list[Mismatch]:
        """Where the blocks of `made` are not of the kinds of these blocks in that order.

        What one block holds for all (see `apart`) may stand in another block afterwards.
        """
        found = []
        apart = self.apart() | self.shared | made.shared
        for block, (source, kind) in enumerate(zip(order, made.blocks, strict=True)):
            for what in dict.fromkeys([*self.blocks[source], *kind]):
                wanted = self.blocks[source].get(what, ABSENT)
                got = kind.get(what, ABSENT)
                if what in self.numbering:
                    wanted = self.numbering[what] + block
                if what in apart or wanted == got:
                    continue
                if not _points_alike(what, wanted, got, order):
                    found.append(Mismatch(block, what, wanted, got))
        return found

    def differing(self, other: Kinds) -> set[int]:
        """The blocks that are of another kind in `other`, which has as many."""
        pairs = zip(self.blocks, other.blocks, strict=True)
        return {number for number, (own, its) in enumerate(pairs) if own != its}

    def only_reassigns(self, other: Kinds) -> bool:
        """Whether every block of `other` is of a kind that some block here has."""
        own = [self.plain(kind) for kind in self.blocks]
        return all(self.plain(kind) in own for kind in other.blocks)

    def plain(self, kind: Kind) -> Kind:
        """A kind without what numbers the blocks."""
        return {what: value for what, value in kind.items() if what not in self.numbering}

    def parameters(self, block: int) -> set[str]:
        """Names of a block's parameters, relative to it."""
        return {what[len(_PARAMETER) :] for what in self.blocks[block] if _is_parameter(what)}

    def tensors(self, block: int) -> set[str]:
        """Names of a block's parameters and buffers, relative to it."""
        buffers = {what[len(_BUFFER) :] for what in self.blocks[block] if what.startswith(_BUFFER)}
        return self.parameters(block) | buffers

    def keeper(self) -> int | None:
        """The one block that has all that every other block has and parameters besides, if any.

        T5's first block holds the table of relative positions, which the others are handed.
        """
        held = [self.parameters(number) for number in range(len(self.blocks))]
        largest = max(range(len(held)), key=lambda number: len(held[number]), default=0)
        others = [names for number, names in enumerate(held) if number != largest]
        alone = len(others) > 1 and all(names < held[largest] for names in others)
        return largest if alone else None

    def apart(self) -> set[str]:
        """What the keeper has besides, and the attributes that say so in the modules above it."""
        keeper = self.keeper()
        if keeper is None:
            return set()
        others = [kind for number, kind in enumerate(self.blocks) if number != keeper]
        own = self.blocks[keeper]
        besides = {what for what in own if all(what not in kind for kind in others)}
        holders = {
            what[len(_PARAMETER) :].rpartition(".")[0].rpartition(".")[0]
            for what in besides
            if _is_parameter(what)
        }
        differing = {
            what
            for what in own
            if what.rpartition(".")[0] in holders
            and what not in self.numbering
            and all(kind.get(what) != own[what] for kind in others)
        }
        return besides | differing


def read_kinds(model: nn.Module, stack: str, idle: Collection[str] = ()) -> Kinds:
    """The kinds of the blocks in the list of modules called `stack`.

    idle: modules, relative to their block, that do nothing outside training.
    """
    blocks = [dict(_facts(block, idle)) for block in model.get_submodule(stack).children()]
    shared = frozenset(_of_the_stack(blocks))
    for what in shared:
        for kind in blocks:
            del kind[what]
    outside = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if not name.startswith(f"{stack}.")
    }
    return Kinds(tuple(blocks), outside, _numbering(blocks), shared)


def idle_modules(model: nn.Module, run: Callable[[], None], blocks: Sequence[str]) -> set[str]:
    """Modules without children, relative to their block, that hand back what they are given.

    run: one forward of the model. A dropout or a stochastic depth: the rates that the class gives
    to a block by its place in the stack concern training alone.
    """
    busy: set[str] = set()
    seen: set[str] = set()

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, result: Any) -> None:
            seen.add(name)
            same = isinstance(result, Tensor) and bool(args) and _same(args[0], result)
            if not same:
                busy.add(name)

        return note

    with ExitStack() as hooks:
        for block in blocks:
            for name, module in model.get_submodule(block).named_modules():
                if not any(True for _ in module.children()):
                    hooks.callback(module.register_forward_hook(hook(name)).remove)
        run()
    return seen - busy


def _is_parameter(what: str) -> bool:
    return what.startswith(_PARAMETER)


def _same(left: Any, right: Tensor) -> bool:
    return left is right or (isinstance(left, Tensor) and torch.equal(left, right))


def _of_the_stack(blocks: Sequence[Kind]) -> list[str]:
    """Lists with an entry for each block, which every block holds alike."""
    return [
        what
        for what, value in (blocks[0].items() if len(blocks) > 1 else ())
        if isinstance(value, list)
        and len(value) == len(blocks)
        and all(kind.get(what) == value for kind in blocks)
    ]


def _facts(block: nn.Module, idle: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name, module in block.named_modules():
        prefix = f"{name}." if name else ""
        if name in idle:
            continue
        yield f"{prefix}class", type(module).__name__
        for key, value in vars(module).items():
            if not key.startswith("_") and key != "training" and _is_plain(value):
                yield prefix + key, getattr(value, "__qualname__", value)
    for name, parameter in block.named_parameters():
        yield _PARAMETER + name, tuple(parameter.shape)
    for name, buffer in block.named_buffers():
        yield _BUFFER + name, tuple(buffer.shape)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, FunctionType))


def _numbering(blocks: Sequence[Kind]) -> dict[str, int]:
    """Attributes that are one more in every block than in the one before."""
    first = blocks[0] if blocks else {}
    return {
        what: start
        for what, start in first.items()
        if type(start) is int
        and (len(blocks) > 1 or start == 0)
        and all(block.get(what) == start + number for number, block in enumerate(blocks))
    }


def _points_alike(what: str, wanted: Any, got: Any, order: Sequence[int]) -> bool:
    """Whether an index names the same source block before and after (shared keys and values)."""
    if not what.endswith(("_index", "_idx")) or type(wanted) is not int or type(got) is not int:
        return False
    return 0 <= got < len(order) and order[got] == wanted
