"""Which output channels of a linear reach the attention scores, felt and not guessed from names.

Each linear's output is followed, by gradients, to a random projection of what the scores are made
of: the queries and keys of `scaled_dot_product_attention`, or the input of a softmax over scores.
A gradient that is exactly zero says that the channel has no part in them: the values, or no
attention at all. So a fused [q | k | v], one that is interleaved head by head, grouped queries and
latent keys are all read in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.sites import SOFTMAX, blocks_of, is_score


def attention_channels(
    model: nn.Module, modules: Collection[str], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """For each linear module, bool [out]: whether the channel reaches its attention's scores.

    modules: names of the linears that read the residual stream. inputs: keyword arguments of one
    forward, at least two positions long. The model may be the twin or the real one, of float32 or
    more; it runs in eval mode and is left as it was. A module that did not run has no entry.
    """
    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        stack.enter_context(torch.enable_grad())
        if next(model.parameters()).dtype == torch.float64:
            stack.enter_context(Float64())
        taken = stack.enter_context(_outputs(model, modules))
        scores = stack.enter_context(_Scores())
        model(**inputs)
        total = scores.total
    outputs = [output for found in taken.values() for output in found]
    gradients = _gradients(total, outputs)
    return {
        name: torch.stack([_felt(gradients[id(output)], output) for output in found]).any(0)
        for name, found in taken.items()
    }


def _gradients(total: Tensor | None, outputs: list[Tensor]) -> dict[int, Tensor | None]:
    if total is None or not total.requires_grad or not outputs:
        return dict.fromkeys(map(id, outputs))
    found = torch.autograd.grad(total, outputs, allow_unused=True)
    return {id(output): gradient for output, gradient in zip(outputs, found, strict=True)}


def _felt(gradient: Tensor | None, output: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros(output.shape[-1], dtype=torch.bool)
    return (gradient.reshape(-1, gradient.shape[-1]) != 0).any(0).cpu()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _outputs(model: nn.Module, modules: Collection[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Module name → its outputs during the forward, cut off from what came before.

    Blocks take a stream that remembers nothing, and so do the modules themselves: or the values of
    one block would reach the scores of the next.
    """
    taken: dict[str, list[Tensor]] = {}
    with ExitStack() as stack:
        for block in blocks_of(name for name, _ in model.named_modules()):
            for name, module in model.named_modules():
                if re.fullmatch(rf"{re.escape(block.name)}\.\d+", name):
                    hook = module.register_forward_pre_hook(_cut, with_kwargs=True)
                    stack.callback(hook.remove)
        for name in modules:
            module = model.get_submodule(name)
            before = module.register_forward_pre_hook(_cut, with_kwargs=True)
            after = module.register_forward_hook(_noted(taken, name))
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield taken


def _cut(module: nn.Module, args: Any, kwargs: Any) -> Any:
    def apart(value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) else value

    return tuple(map(apart, args)), {key: apart(value) for key, value in kwargs.items()}


def _noted(taken: dict[str, list[Tensor]], name: str) -> Callable[[nn.Module, Any, Any], Any]:
    def note(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        if not output.requires_grad:
            output.requires_grad_()
        taken.setdefault(name, []).append(output)
        return output.clone()  # what follows may change it in place

    return note


class _Scores(TorchFunctionMode):
    """Sums a random projection of whatever attention scores are made of while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor | None = None
        self._seed = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            pair = dict(zip(("query", "key"), args, strict=False)) | named
            self._add(pair["query"])
            self._add(pair["key"])
        elif name in SOFTMAX:
            value = args[0] if args else named["input"]
            if is_score(value):
                self._add(value)
        return func(*args, **named)

    def _add(self, value: Tensor) -> None:
        if not value.requires_grad:
            return
        self._seed += 1
        generator = torch.Generator().manual_seed(self._seed)
        weights = torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5
        projected = (value * weights.to(value.device, value.dtype)).sum()
        self.total = projected if self.total is None else self.total + projected
