"""A model's own forward with its blocks left out: what each is given, and how it hands on.

The blocks stay where they are (model code reads attributes of them); only their `forward` is
replaced while a context is open.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.errors import UnsupportedModelError

_POOL_LOOKBACK = 16


@dataclass(frozen=True)
class Form:
    """How a block returns the stream: a bare tensor (length None), or at `place` of a tuple."""

    length: int | None = None
    place: int = 0

    def stream(self, output: Any) -> Tensor:
        """The stream in what a block returned."""
        found: Tensor = output if self.length is None else output[self.place]
        return found

    def wrap(self, stream: Tensor) -> Any:
        """What a block that hands on `stream` returns; None stands for all else in the tuple."""
        if self.length is None:
            return stream
        return tuple(stream if at == self.place else None for at in range(self.length))

    @staticmethod
    def of(output: Any, stream: Tensor) -> Form:
        """The form of a block's output. Raises UnsupportedModelError where no stream is in it."""
        if isinstance(output, Tensor):
            return Form()
        if isinstance(output, tuple):
            for place, value in enumerate(output):
                if isinstance(value, Tensor) and value.shape == stream.shape:
                    return Form(len(output), place)
        raise UnsupportedModelError(
            f"a block returns {type(output).__name__}, in which no stream can be made out",
            "please report the model id",
        )


@dataclass(frozen=True)
class Call:
    """The arguments of a block, less the stream. name: the stream's, None if it comes first."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str | None

    def __call__(self, block: nn.Module, stream: Tensor) -> Any:
        """Run a block on `stream` with these arguments."""
        if self.name is None:
            return block(stream, *self.args, **self.kwargs)
        return block(*self.args, **{self.name: stream}, **self.kwargs)


class Leave(Exception):  # noqa: N818  (it leaves a forward early; nothing went wrong)
    """Raised inside a forward to end it where the blocks begin or end."""


@dataclass
class Pool:
    """Tensors of which equal ones are kept once: most batches give their blocks the same masks.

    limit: bytes that are kept; passed_by: tensors that were not, since they would have been beyond.
    """

    limit: int = 1 << 62
    kept: dict[tuple[Any, ...], list[Tensor]] = field(default_factory=dict)
    kept_bytes: int = 0
    passed_by: int = 0

    def share(self, value: Any) -> Any:
        """The value with every tensor in it replaced by an equal one seen before, if there is."""
        if isinstance(value, Tensor):
            return self._shared(value)
        if type(value) in (tuple, list):
            return type(value)(self.share(entry) for entry in value)
        if type(value) is dict:
            return {key: self.share(entry) for key, entry in value.items()}
        return value

    def _shared(self, value: Tensor) -> Tensor:
        seen = self.kept.setdefault((value.dtype, *value.shape), [])
        for other in reversed(seen[-_POOL_LOOKBACK:]):
            if other is value or torch.equal(other, value):
                return other
        if self.kept_bytes + value.nbytes > self.limit:
            self.passed_by += 1
            return value
        seen.append(value)
        self.kept_bytes += value.nbytes
        return value


Hand = Callable[[int, Call, Tensor], Tensor]


@contextmanager
def passing(blocks: Sequence[nn.Module], forms: Sequence[Form], hand: Hand) -> Iterator[None]:
    """Every block calls `hand(place in blocks, arguments, stream)` and hands on what that gives."""
    own = [block.__dict__.get("forward") for block in blocks]
    for place, block in enumerate(blocks):
        block.forward = _passer(place, block, forms[place], hand)
    try:
        yield
    finally:
        for block, before in zip(blocks, own, strict=True):
            if before is None:
                del block.forward  # the class's own comes to light again
            else:
                block.forward = before


def _passer(place: int, block: nn.Module, form: Form, hand: Hand) -> Callable[..., Any]:
    first = next(iter(inspect.signature(block.forward).parameters))

    def forward(*args: Any, **kwargs: Any) -> Any:
        if args:
            call, stream = Call(args[1:], kwargs, None), args[0]
        else:
            stream = kwargs.pop(first)
            call = Call((), kwargs, first)
        return form.wrap(hand(place, call, stream))

    return forward


def text_inputs(ids: Tensor) -> dict[str, Any]:
    """The arguments of a causal language model's forward for ids [rows, time], pads included."""
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}


def note_calls(
    model: Any, blocks: Sequence[nn.Module], forms: Sequence[Form], ids: Tensor, pool: Pool
) -> tuple[list[Call], Tensor]:
    """Run a model's forward up to its blocks: the arguments of each, and the stream before them.

    pool: where arguments that equal earlier ones are looked up.
    """
    calls: list[Call] = []
    streams: list[Tensor] = []

    def note(place: int, call: Call, stream: Tensor) -> Tensor:
        calls.append(Call(pool.share(call.args), pool.share(call.kwargs), call.name))
        streams.append(stream)
        if len(calls) == len(blocks):
            raise Leave
        return stream

    with passing(blocks, forms, note), suppress(Leave):
        model(**text_inputs(ids))
    return calls, streams[0]


def tail_logits(
    model: Any, blocks: Sequence[nn.Module], forms: Sequence[Form], ids: Tensor, x: Tensor
) -> Tensor:
    """What a model's forward makes of `x` behind its last block: [rows, time, vocabulary]."""
    last = len(blocks) - 1
    with passing(blocks, forms, lambda place, call, stream: x if place == last else stream):
        logits: Tensor = model(**text_inputs(ids)).logits
    return logits


def forms_of(model: Any, blocks: Sequence[nn.Module], inputs: dict[str, Tensor]) -> list[Form]:
    """How each block returns the stream, seen in one forward of the model.

    Raises UnsupportedModelError where a block does not run exactly once, in order.
    """
    forms: dict[int, Form] = {}
    ran: list[int] = []

    def noting(place: int) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            stream = args[0] if args else next(iter(kwargs.values()))
            forms[place] = Form.of(output, stream)
            ran.append(place)

        return note

    hooks = [
        block.register_forward_hook(noting(place), with_kwargs=True)
        for place, block in enumerate(blocks)
    ]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if ran != list(range(len(blocks))):
        raise UnsupportedModelError(
            "the blocks do not run once each, in their order",
            "blocks that run several times cannot be measured one by one",
        )
    return [forms[place] for place in range(len(blocks))]
