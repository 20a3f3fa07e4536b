"""The tensors of a stack's blocks as they are called on disk, and what they are called elsewhere.

The name of a tensor on disk holds the number of its block as one of its parts; which one is told by
the parameters that the tensors hold, so that numbers of experts are not taken for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.stacks import Stack
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError


@dataclass(frozen=True)
class BlockTensor:
    """A tensor on disk, and the parameters (relative to the block) that it holds, if any."""

    name: str
    holds: frozenset[str]


@dataclass(frozen=True)
class BlockNames:
    """blocks: the tensors of each block, in the order of the files. prefixes: what stands before
    the number in their names."""

    blocks: tuple[tuple[BlockTensor, ...], ...]
    prefixes: frozenset[str]

    def of(self, block: int) -> tuple[BlockTensor, ...]:
        """The tensors of one block."""
        return self.blocks[block]

    def all_names(self) -> set[str]:
        """The names of all tensors of the stack."""
        return {tensor.name for tensors in self.blocks for tensor in tensors}

    def renamed(self, name: str, old: int, new: int) -> str:
        """The name of the same tensor in another block."""
        prefix = next(p for p in self.prefixes if name.startswith(f"{p}{old}."))
        return f"{prefix}{new}.{name[len(f'{prefix}{old}.') :]}"


def read_block_names(checkpoint: Checkpoint, examination: Examination, stack: Stack) -> BlockNames:
    """Which tensors on disk belong to which block of a stack; buffers that code computes too.

    Raises UnsupportedModelError where a tensor holds parameters of several blocks, or blocks share
    parameters.
    """
    names = examination.names
    _check_unshared(names, stack)
    held: dict[str, tuple[int, frozenset[str]]] = {}
    for name in (*names.parts, *names.joins):
        owners = {_place(parameter, stack) for parameter in names.held_by(name)}
        numbers = {owner[0] for owner in owners if owner is not None}
        if numbers and (len(numbers) > 1 or None in owners):
            raise UnsupportedModelError(
                f"{name} holds parameters of several blocks", "its blocks cannot be told apart"
            )
        if numbers:
            relative = frozenset(owner[1] for owner in owners if owner is not None)
            held[name] = numbers.pop(), relative
    prefixes = _prefixes(held, stack)
    blocks: list[list[BlockTensor]] = [[] for _ in stack.blocks]
    for name in checkpoint:
        if name in held:
            number, relative = held[name]
            blocks[number].append(BlockTensor(name, relative))
        elif name in names.carried and (found := _numbered(name, prefixes, stack)) is not None:
            blocks[found].append(BlockTensor(name, frozenset()))
    return BlockNames(tuple(map(tuple, blocks)), prefixes)


def _place(parameter: str, stack: Stack) -> tuple[int, str] | None:
    """The block that a parameter belongs to, and its name relative to it."""
    head = f"{stack.name}."
    if not parameter.startswith(head):
        return None
    number, _, relative = parameter[len(head) :].partition(".")
    return int(number), relative


def _check_unshared(names: NameMap, stack: Stack) -> None:
    for parameter, first in names.tied.items():
        if parameter != first:
            own, other = _place(parameter, stack), _place(first, stack)
            if (own or other) and (own and own[0]) != (other and other[0]):
                raise UnsupportedModelError(
                    f"{parameter} and {first} are one parameter",
                    "blocks that share parameters cannot be rearranged",
                )


def _prefixes(held: dict[str, tuple[int, frozenset[str]]], stack: Stack) -> frozenset[str]:
    """What stands before the block's number: the shortest that serves every block alike."""
    candidates = [(number, set(_before(name, number))) for name, (number, _) in held.items()]
    every = set().union(*(found for _, found in candidates)) if candidates else set()
    whole = [
        prefix
        for prefix in every
        if {number for number, found in candidates if prefix in found} == set(range(stack.depth))
    ]
    chosen: list[str] = []
    for _, found in candidates:
        fitting = sorted((prefix for prefix in whole if prefix in found), key=len)
        if not fitting:
            raise UnsupportedModelError(
                "the names of the tensors do not tell the blocks apart",
                "please report the model id",
            )
        chosen.append(fitting[0])
    return frozenset(chosen)


def _before(name: str, number: int) -> Iterator[str]:
    """What stands before each part of a name that is this number."""
    parts: Sequence[str] = name.split(".")
    for position, part in enumerate(parts):
        if part == str(number):
            yield "".join(f"{before}." for before in parts[:position])


def _numbered(name: str, prefixes: frozenset[str], stack: Stack) -> int | None:
    """The block whose prefix a name has, if there is such a block."""
    for prefix in prefixes:
        if name.startswith(prefix):
            number = name[len(prefix) :].partition(".")[0]
            if number.isdigit() and int(number) < stack.depth:
                return int(number)
    return None
