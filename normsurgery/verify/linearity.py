"""Whether logits are the sum of what each block adds to the stream: the logit lens made exact.

With f what follows the last block and c_i what block i adds (its output less its input; first the
stream that the first block takes), the logits are f(Σ c_i). Where nothing after the blocks divides
by what it reads, f is affine: f(Σ c_i) = f(0) + Σ (f(c_i) − f(0)). A final norm breaks this. f is
found without a name: the blocks give what they gave before, the last one c_i, and the rest of the
model runs. Source: "Transformers Don't Need LayerNorm at Inference Time", arXiv 2507.02559 (direct
logit attribution).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.stacks import first_tensor, passed_lists, stream_of
from normsurgery.errors import UnsupportedModelError

ALLOWED = 1e-5
_HINT = "leave --linearity out"


@dataclass(frozen=True)
class Linearity:
    """error: max |Δ| over the logits' std; contributions: how many parts the logits split into."""

    error: float
    contributions: int
    allowed: float = ALLOWED

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed  # NaN fails

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    def reason(self) -> str:
        """Why a model that was asked for it fails."""
        return (
            f"logits are not the sum of the blocks' contributions: off by {self.error:.3g} of "
            f"their standard deviation, {self.allowed:g} is allowed"
        )


@dataclass(frozen=True)
class _Call:
    """One call of a block. result: all that it returned, the stream in it."""

    block: str
    taken: Tensor
    result: Any


def linearity(model: Any, inputs: Mapping[str, Tensor]) -> Linearity:
    """Hold the logits of one batch against the sum of the contributions of the blocks.

    model: with a language head, in eval mode; float64, for streams whose parts are large and
    cancel. inputs: keyword arguments of its forward, without labels. Pads count like tokens: the
    sum must hold for any stream.
    Raises UnsupportedModelError for a model without a language head, or whose blocks do not pass
    one stream on.
    """
    plain = dict(inputs)
    if getattr(model.config, "use_cache", None):
        plain["use_cache"] = False  # type: ignore[assignment]

    def run() -> Tensor:
        logits: Tensor = model(**plain).logits
        return logits.double()

    with torch.inference_mode():
        blocks = _language_blocks(model, run)
        calls: list[_Call] = []
        with _noted(model, blocks, calls):
            logits = run()
        streams = [call.taken for call in calls] + [_stream(calls[-1].result)]
        parts = [streams[0], *(after - before for before, after in itertools.pairwise(streams))]
        nothing = _after(model, calls, torch.zeros_like(parts[0]), run)
        total = nothing.clone()
        for part in parts:
            total += _after(model, calls, part, run) - nothing
    spread = float(logits.std(correction=0)) or 1.0
    error = float((total - logits).abs().max()) / spread
    return Linearity(error if math.isfinite(error) else math.inf, len(parts))


def _language_blocks(model: Any, run: Callable[[], Tensor]) -> tuple[str, ...]:
    """The blocks whose stream the language head reads: the outermost list that runs last."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    if head is None:
        raise UnsupportedModelError("it has no language head, so no logits to take apart", _HINT)
    rows, _ = passed_lists(model, run)
    names = [row.name for row in rows]
    outer = [row for row in rows if not any(row.name.startswith(f"{name}.") for name in names)]
    if not outer:
        raise UnsupportedModelError("it has no stack of repeated blocks", _HINT)
    if outer[-1].why_not:
        raise UnsupportedModelError(f"{outer[-1].name}: {outer[-1].why_not}", _HINT)
    return outer[-1].blocks


@contextmanager
def _noted(model: nn.Module, blocks: Sequence[str], calls: list[_Call]) -> Iterator[None]:
    """While open, note what the blocks take and return."""

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            calls.append(_Call(name, stream_of(module, args, kwargs).clone(), _copied(result)))

        return hook

    with ExitStack() as hooks:
        for name in blocks:
            module = model.get_submodule(name)
            hooks.callback(module.register_forward_hook(note(name), with_kwargs=True).remove)
        yield


def _copied(result: Any) -> Any:
    """What a block returned, its stream safe from what is done to it in place afterwards."""
    return _with_stream(result, _stream(result).clone())


def _stream(result: Any) -> Tensor:
    found = first_tensor(result)
    assert found is not None  # a block that passes no stream on is in no row
    return found


def _with_stream(result: Any, stream: Tensor) -> Any:
    """What a block returned, with another stream in it."""
    if isinstance(result, Tensor):
        return stream
    if isinstance(result, (tuple, list)):
        return type(result)([_with_stream(result[0], stream), *result[1:]])
    first = next(iter(result))
    return type(result)(**{**result, first: _with_stream(result[first], stream)})


def _after(
    model: nn.Module, calls: Sequence[_Call], stream: Tensor, run: Callable[[], Tensor]
) -> Tensor:
    """The logits if the last block had returned `stream`; the blocks are not computed again."""
    given = {call.block: call.result for call in calls}
    given[calls[-1].block] = _with_stream(calls[-1].result, stream)
    with ExitStack() as patches:
        for name, result in given.items():
            patches.enter_context(_answering(model.get_submodule(name), result))
        return run()


@contextmanager
def _answering(module: nn.Module, result: Any) -> Iterator[None]:
    """While open, the module returns a copy of `result`, whatever it is given."""
    own = module.__dict__.get("forward")
    module.forward = lambda *args, **kwargs: _copied(result)
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:  # accelerate's offload puts its own there
            module.forward = own
