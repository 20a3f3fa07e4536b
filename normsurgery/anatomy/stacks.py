"""Stacks: rows of repeated blocks that a stream passes one after the other.

A list of modules is a stack if, on the twin, each child is called once and takes what the child
before it returned. Where config.json holds a stack's depth is found by changing numbers: a place
is a key of the stack if the list follows when the model is rebuilt with another value there.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.config_places import Key
from normsurgery.anatomy.depth_keys import depth_keys
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.twin import Twin, meta_model
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.nearest import did_you_mean


@dataclass(frozen=True)
class Stack:
    """A row of repeated blocks.

    name: module path of the list. blocks: module paths, in the order in which the stream passes.
    width: channels of the full model's stream, 0 where no parameter of a block tells. keys: places
    in config.json that hold the depth (all of them change with it). language: whether its stream
    is what the language head reads. why_not: why its blocks cannot be rearranged, or "".
    """

    name: str
    blocks: tuple[str, ...]
    width: int
    keys: tuple[Key, ...]
    language: bool = False
    why_not: str = ""

    @property
    def depth(self) -> int:
        """How many blocks it has."""
        return len(self.blocks)


@dataclass(frozen=True)
class BlockCall:
    """One call of a block: the stream that it took and the one that it returned."""

    block: str
    taken: Tensor
    returned: Tensor


@single_thread()
def read_stacks(examination: Examination) -> tuple[Stack, ...]:
    """Every stack of the model, in the order in which they run."""
    twin = examination.twin
    rows, calls = passed_lists(twin.model, lambda: run_twin(twin))
    keys = depth_keys(
        examination.model_class, examination.config, {row.name: len(row.blocks) for row in rows}
    )
    full = meta_model(examination.model_class, examination.config)
    by_block = {call.block: call for call in calls}
    stacks = []
    for row in rows:
        if row.name not in keys and not _is_block(twin.model, row):
            continue
        shape = by_block[row.blocks[0]].taken.shape
        stack = replace(row, keys=keys.get(row.name, ()), width=_width(row, shape, twin, full))
        if not stack.keys and not stack.why_not:
            stack = replace(stack, why_not="no number in config.json holds its depth")
        stacks.append(stack)
    return _with_language(twin.model, stacks)


def passed_lists(
    model: nn.Module, run: Callable[[], object]
) -> tuple[list[Stack], list[BlockCall]]:
    """The lists of modules that a stream passes when `run` runs the model, and all their calls.

    In the order in which they run; width and keys are not filled in.
    """
    lists = _module_lists(model)
    blocks = [block for found in lists.values() for block in found]
    with noted_calls(model, blocks) as calls:
        run()
    return _rows(lists, calls), calls


def choose_stack(stacks: Sequence[Stack], asked: str | None = None) -> Stack:
    """The stack that `asked` names (or a piece of its name that no other has).

    None: the only one, or the one that the language head reads. Raises UsageError listing the
    names where that is ambiguous, UnsupportedModelError where there is none or its blocks cannot
    be rearranged.
    """
    if not stacks:
        raise UnsupportedModelError(
            "it has no stack of repeated blocks", "normsurgery inspect MODEL   # what does apply"
        )
    found = _asked_for(stacks, asked) if asked is not None else _usual(stacks)
    if len(found) != 1:
        names = ", ".join(stack.name for stack in stacks)
        which = f"--stack {asked} fits {len(found)} stacks" if asked else "it has several stacks"
        meant = did_you_mean(asked or "", [stack.name for stack in stacks])
        raise UsageError(f"{which} of blocks: {names}", f"{meant}name one with --stack")
    if found[0].why_not:
        raise UnsupportedModelError(
            f"the blocks of {found[0].name} cannot be rearranged: {found[0].why_not}",
            "normsurgery inspect MODEL   # what does apply",
        )
    return found[0]


def _asked_for(stacks: Sequence[Stack], asked: str) -> list[Stack]:
    exact = [stack for stack in stacks if stack.name == asked]
    if exact:
        return exact
    whole = [stack for stack in stacks if asked in stack.name.split(".")]
    return whole or [stack for stack in stacks if asked in stack.name]


def _usual(stacks: Sequence[Stack]) -> list[Stack]:
    if len(stacks) == 1:
        return list(stacks)
    language = [stack for stack in stacks if stack.language]
    return language or [stack for stack in stacks if not stack.why_not]


def stream_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a block takes as its stream: the first parameter of its forward."""
    if args:
        return args[0]
    return kwargs.get(next(iter(inspect.signature(module.forward).parameters), ""))


def first_tensor(result: Any) -> Tensor | None:
    """The stream in what a block returns: the tensor, or the first of a tuple."""
    if isinstance(result, Tensor):
        return result
    values = list(result.values()) if isinstance(result, Mapping) else result
    return first_tensor(values[0]) if isinstance(values, (tuple, list)) and values else None


@contextmanager
def noted_calls(model: nn.Module, blocks: Sequence[str]) -> Iterator[list[BlockCall]]:
    """While open, note what the blocks take and return, in the order in which they finish."""
    calls: list[BlockCall] = []
    with ExitStack() as hooks:
        for name in blocks:
            module = model.get_submodule(name)
            hook = module.register_forward_hook(_note_call(calls, name), with_kwargs=True)
            hooks.callback(hook.remove)
        yield calls


def _note_call(calls: list[BlockCall], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        taken, returned = stream_of(module, args, kwargs), first_tensor(result)
        if isinstance(taken, Tensor) and returned is not None:
            calls.append(BlockCall(name, taken.detach().clone(), returned.detach().clone()))

    return hook


def run_twin(twin: Twin) -> None:
    """One forward of the twin, its draws seeded."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), Float64():
        torch.manual_seed(0)
        twin.model(**twin.inputs)


def _module_lists(model: nn.Module) -> dict[str, list[str]]:
    """Modules whose children are numbered from 0, with the children's paths."""
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        children = [child for child, _ in module.named_children()]
        if children and children == [str(number) for number in range(len(children))]:
            found[name] = [f"{name}.{child}" for child in children]
    return found


def _rows(lists: Mapping[str, list[str]], calls: Sequence[BlockCall]) -> list[Stack]:
    """The lists that a stream passes, in the order in which their first block ran."""
    order = {call.block: number for number, call in reversed(list(enumerate(calls)))}
    rows = []
    for name, blocks in lists.items():
        members = set(blocks)
        own = [call for call in calls if call.block in members]
        reason = _why_no_row(blocks, own)
        if reason is not None:
            rows.append(Stack(name, tuple(blocks), 0, (), why_not=reason))
    return sorted(rows, key=lambda row: order[row.blocks[0]])


def _why_no_row(blocks: Sequence[str], calls: Sequence[BlockCall]) -> str | None:
    """None: the list is no stack at all. "": it is one. Else what keeps it from being a plain one.

    A stack has one shape from end to end, and most of its blocks hand the stream on.
    """
    if not calls or len({call.taken.shape for call in calls} | {calls[-1].returned.shape}) > 1:
        return None
    pairs = list(itertools.pairwise(calls))
    broken = [pair for pair in pairs if not torch.equal(pair[0].returned, pair[1].taken)]
    if 2 * len(broken) > len(pairs):
        return None
    called = [call.block for call in calls]
    if len(called) != len(set(called)):
        return "a block runs more than once, so that the depth is not how many there are"
    if called != list(blocks):
        return "its blocks do not run in the order of the list"
    if broken:
        first, second = (call.block.rpartition(".")[2] for call in broken[0])
        return f"the stream is changed between the blocks {first} and {second}"
    return ""


def _is_block(model: nn.Module, row: Stack) -> bool:
    """Whether the children look like repeated blocks and not like the steps of a small network."""
    modules = [model.get_submodule(name) for name in row.blocks]
    compound = all(any(True for _ in module.children()) for module in modules)
    return compound and len(modules) > 1 and len({type(module) for module in modules}) == 1


def _width(row: Stack, shape: Sequence[int], twin: Twin, full: nn.Module) -> int:
    """The stream's channels in the full model, from a block's vectors that have them in the twin.

    shape: of the twin's stream, [batch, time, channels] or [batch, channels, height, width].
    """
    tiny = shape[1] if len(shape) == 4 else shape[-1]
    if len(shape) == 4 and not _vectors(twin.model, row, tiny):
        tiny = shape[-1]
    names = _vectors(twin.model, row, tiny)
    sizes = [full.get_parameter(name).shape[0] for name in names]
    return max(sizes, key=sizes.count) if sizes else 0


def _vectors(model: nn.Module, row: Stack, size: int) -> list[str]:
    """Parameters of the first block with one axis of that size; matrices where there are none."""
    held = model.get_submodule(row.blocks[0]).named_parameters(prefix=row.blocks[0])
    shapes = {name: tuple(parameter.shape) for name, parameter in held}
    vectors = [name for name, shape in shapes.items() if shape == (size,)]
    return vectors or [name for name, shape in shapes.items() if shape and shape[0] == size]


def _with_language(model: Any, stacks: Sequence[Stack]) -> tuple[Stack, ...]:
    """Mark the stack that runs last in a model that predicts tokens."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    if head is None or not stacks:
        return tuple(stacks)
    return (*stacks[:-1], replace(stacks[-1], language=True))
