"""A model whose blocks run in another order, in memory: what a rearranged checkpoint must equal.

No weight and no name is touched. Every block of the stack hands its stream on unchanged and notes
the other arguments that the model gave it (masks, positions, biases); the last one then runs the
blocks asked for, each with its own arguments, on the stream that entered the first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from normsurgery.anatomy.stacks import first_tensor

_KEPT_APART = ("use_cache", "output_hidden_states", "output_attentions")


@contextmanager
def composed(model: Any, blocks: Sequence[str], order: Sequence[int]) -> Iterator[None]:
    """While open, the model's forward runs the blocks numbered `order` in place of all of them.

    blocks: module paths of the stack, in order.
    """
    modules = [model.get_submodule(name) for name in blocks]
    line = _Line([module.forward for module in modules], order)
    with ExitStack() as undo:
        undo.enter_context(plain_outputs(model))
        for number, module in enumerate(modules):
            undo.callback(_restore, module, module.__dict__.get("forward"))
            module.forward = line.wrapper(number, inspect.signature(module.forward))
        yield


@contextmanager
def plain_outputs(model: nn.Module) -> Iterator[None]:
    """While open, no cache is kept (blocks run twice) and no stream by depth is returned."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = [
        (config, name, getattr(config, name))
        for config in configs.values()
        for name in _KEPT_APART
        if getattr(config, name, None)
    ]
    for config, name, _ in before:
        setattr(config, name, False)
    try:
        yield
    finally:
        for config, name, value in before:
            setattr(config, name, value)


def _restore(module: nn.Module, forward: Any) -> None:
    del module.forward  # the instance's, which hides the class's
    if forward is not None:
        module.forward = forward


class _Line:
    """The stack during one forward of the model."""

    def __init__(self, forwards: Sequence[Callable[..., Any]], order: Sequence[int]) -> None:
        self.forwards, self.order = forwards, order
        self.arguments: dict[int, tuple[tuple[Any, ...], dict[str, Any], str]] = {}

    def wrapper(self, number: int, signature: inspect.Signature) -> Callable[..., Any]:
        """What stands in for a block's forward."""
        stream = next(iter(signature.parameters))

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.arguments[number] = args, kwargs, stream
            taken: Tensor = args[0] if args else kwargs[stream]
            result = self.run(number, taken)  # for what it returns beside its stream
            if number == len(self.forwards) - 1:
                entered = taken
                for source in self.order:
                    taken = _first(self.run(source, taken))
                return _with_stream(result, taken if self.order else entered)
            return _with_stream(result, taken)

        forward.__signature__ = signature  # type: ignore[attr-defined]
        return forward

    def run(self, number: int, taken: Tensor) -> Any:
        """One of the blocks on a stream, with the other arguments that it was given."""
        args, kwargs, stream = self.arguments[number]
        taken = taken.clone()  # a block may add in place
        if args:
            return self.forwards[number](taken, *args[1:], **kwargs)
        return self.forwards[number](**{**kwargs, stream: taken})


def _first(result: Any) -> Tensor:
    found = first_tensor(result)
    assert found is not None  # it was seen to return a stream
    return found


def _with_stream(result: Any, stream: Tensor) -> Any:
    """What a block returned, with another stream in it."""
    if isinstance(result, Tensor):
        return stream
    if isinstance(result, Mapping):
        changed = type(result)(**result)
        changed[next(iter(result))] = stream  # type: ignore[index]
        return changed
    return type(result)([stream, *result[1:]])
