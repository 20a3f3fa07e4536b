"""BatchNorm statistics of a loaded model, measured anew on samples and put into it.

A norm's statistics depend on every norm before it, so they are taken in the order of execution,
each with those before it already in place: the whole set in one pass where it fits into one batch,
else a pass a norm that ends at this norm. Either way mean and variance are those of all values of
the set, as if it were one batch; the variance is the biased one, with which the norm's output has
exactly the variance that its weight says.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.calibrate.arrays.samples import Batch, Samples
from normsurgery.report.progress import Advance
from normsurgery.verify.run import placed

_WIDENED = 2**22  # values that are in float64 at once


@dataclass(frozen=True)
class Statistics:
    """mean, variance (biased) [width] in float64, of `count` values a channel."""

    mean: Tensor
    variance: Tensor
    count: int


class Gatherer:
    """Mean and variance of a stream of inputs, merged batch by batch (Chan's formula)."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._mean: Tensor | None = None
        self._squares = torch.empty(0)
        self._count = 0

    def update(self, values: Tensor) -> None:
        """values: channels along the axis. On their own device, in float64, some at a time."""
        rows = values.detach().movedim(self._axis, 0).flatten(1)
        count = rows.shape[1]
        parts = [
            torch.var_mean(part.double(), dim=1, correction=0)
            for part in torch.split(rows, max(1, _WIDENED // max(1, count)))
        ]
        squares, mean = (torch.cat(column) for column in zip(*parts, strict=True))
        squares = squares * count
        if self._mean is None:
            self._mean, self._squares, self._count = mean, squares, count
            return
        both = self._count + count
        step = mean - self._mean
        self._mean = self._mean + step * (count / both)
        self._squares = self._squares + squares + step.square() * (self._count * count / both)
        self._count = both

    def result(self) -> Statistics:
        """ValueError where nothing came."""
        if self._mean is None:
            raise ValueError("no values")
        return Statistics(self._mean.cpu(), (self._squares / self._count).cpu(), self._count)


@dataclass
class _Plan:
    """order: norms as they are first called. calls: how often, in one forward."""

    order: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    bytes_a_sample: int = 0


class _Reached(Exception):  # noqa: N818 - not an error: the rest of the forward is not needed
    """Ends a forward at the norm that is measured."""


def reestimate(
    model: nn.Module,
    axes: Mapping[str, int],
    samples: Samples,
    *,
    memory_bytes: int,
    store: Callable[[str, Statistics], None] | None = None,
    advance: Advance | None = None,
) -> dict[str, Statistics]:
    """Measure the norms named in `axes` (→ axis of the channels) and put the result into the model.

    model: in eval mode; its running_mean and running_var change. memory_bytes: what a batch's
    largest norm input may take; it decides between one pass and many. store: what puts a norm's
    statistics into the model, for values that are rounded on the way (default: as they are).
    A norm that is called several times gets the statistics of all its calls together; one that
    `samples` never reach keeps its own and is not in the result.
    """
    put = store or (lambda name, found: put_statistics(model.get_submodule(name), found))
    plan = _watched(model, axes, next(samples.batches(1)))
    size = max(1, min(len(samples), memory_bytes // max(1, plan.bytes_a_sample)))
    batches = list(samples.batches(size))
    tell = advance or (lambda count: None)
    if len(batches) == 1 and all(count == 1 for count in plan.calls.values()):
        found = _one_pass(model, axes, plan, batches[0], put)
        tell(len(plan.order))
        return found
    found = {}
    for name in plan.order:
        found[name] = _measured(model, name, axes[name], plan.calls[name], batches)
        put(name, found[name])
        tell(1)
    return found


def put_statistics(norm: Any, found: Statistics) -> None:
    """Into the norm's buffers, in their own dtype."""
    with torch.no_grad():
        norm.running_mean.copy_(found.mean.view_as(norm.running_mean))
        norm.running_var.copy_(found.variance.view_as(norm.running_var))


def run(model: nn.Module, batch: Batch) -> Any:
    """The model's output on a batch, without gradients, where the model is and in its dtype."""
    parameter = next(model.parameters())
    with torch.inference_mode():
        return model(**placed(batch.inputs, parameter.dtype, parameter.device))


def _watched(model: nn.Module, axes: Mapping[str, int], batch: Batch) -> _Plan:
    plan = _Plan()

    def note(name: str, values: Tensor) -> None:
        if name not in plan.calls:
            plan.order.append(name)
        plan.calls[name] += 1
        plan.bytes_a_sample = max(plan.bytes_a_sample, values.nbytes)

    with _hooked(model, axes, note):
        run(model, batch)
    return plan


def _one_pass(
    model: nn.Module,
    axes: Mapping[str, int],
    plan: _Plan,
    batch: Batch,
    put: Callable[[str, Statistics], None],
) -> dict[str, Statistics]:
    found: dict[str, Statistics] = {}

    def measure(name: str, values: Tensor) -> None:
        gatherer = Gatherer(axes[name])
        gatherer.update(values)
        found[name] = gatherer.result()
        put(name, found[name])  # before the norm runs: a hook ahead of its forward

    with _hooked(model, plan.order, measure):
        run(model, batch)
    return found


def _measured(
    model: nn.Module, name: str, axis: int, calls: int, batches: Sequence[Batch]
) -> Statistics:
    gatherer = Gatherer(axis)
    for batch in batches:
        left = [calls]

        def measure(_: str, values: Tensor, left: list[int] = left) -> None:
            gatherer.update(values)
            left[0] -= 1
            if not left[0]:
                raise _Reached

        with _hooked(model, [name], measure), contextlib.suppress(_Reached):
            run(model, batch)
    return gatherer.result()


@contextlib.contextmanager
def _hooked(
    model: nn.Module, names: Mapping[str, Any] | Sequence[str], see: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """`see` gets the input of each of these norms just before it runs."""

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args: see(name, args[0])

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names
    ]  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
