"""Value heads: which outputs of a linear reach which inputs of the next one through attention.

Attention is linear in its values. So each value head may be rotated if the columns of the output
projection that read it are rotated back (R2 of SpinQuant, arXiv 2405.16406). Felt on the twin and
not guessed from names: with value channels set to labels, every input channel of the projection
shows the label that it reads; with all of them set to one number a token, channels that average
over tokens alike belong to one head. Gates, latent values and convolutions fail this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.attention_channels import attention_channels
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.twin import Twin

_CLOSE = 1e-8


@dataclass(frozen=True)
class ValueHeads:
    """One attention's value heads in the model that was looked at.

    values, output: module names of the linear that makes the values (perhaps queries and keys too)
    and of the one that reads what attention makes of them. width: channels of a head. starts: first
    value channel of each head, ascending. heads: how many times `width` the output's inputs are.
    """

    values: str
    output: str
    width: int
    starts: tuple[int, ...]
    heads: int


def read_value_heads(twin: Twin) -> tuple[dict[str, ValueHeads], dict[str, str]]:
    """Value heads by attention module, and why other attention modules have none that are plain."""
    model = twin.model
    linears = [name for name, module in model.named_modules() if weight_axes(module)]
    felt = attention_channels(model, linears, twin.inputs)
    attentions: dict[str, list[str]] = {}
    for name in felt:
        attentions.setdefault(_parent(name), []).append(name)
    attentions = {
        attention: names
        for attention, names in attentions.items()
        if any(bool(felt[name].any()) for name in names)
    }
    free = {
        name: ~felt[name]
        for names in attentions.values()
        for name in names
        if not bool(felt[name].all())
    }
    witness = _Witness(twin, free)
    found: dict[str, ValueHeads] = {}
    left: dict[str, str] = {}
    for attention, names in attentions.items():
        output = witness.output_of(names)
        values = [name for name in names if name in free and name != output]
        heads = [one for name in values if output and (one := witness.heads(name, output))]
        if len(heads) == 1:
            found[attention] = heads[0]
        else:
            left[attention] = "its values do not pass through attention head by head"
    return found, left


def weight_axes(module: nn.Module) -> tuple[int, int] | None:
    """The output and input axis of a linear module's weight; None for any other module."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return 0, 1
    return (1, 0) if isinstance(module, Conv1D) else None


@dataclass
class _Runs:
    """What the linears take and give: module → a tensor for each call."""

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)


class _Witness:
    """Three runs of the twin with other values, every attention at once.

    The last linear of an attention hands on what it gave in the first run, so that every block
    reads the stream that it read then, and every attention's scores stay what they were.
    """

    def __init__(self, twin: Twin, values: Mapping[str, Tensor]) -> None:
        self.twin, self.values = twin, values
        self.usual = self._run(lambda name, output: output)
        self.labels = {
            name: 1 + torch.rand(len(free), generator=_seeded(len(name)), dtype=torch.float64)
            for name, free in values.items()
        }
        self.ones = self._fixed(lambda name, like: torch.ones_like(like))
        self.labelled = self._fixed(lambda name, like: self.labels[name].expand_as(like))
        self.spoken = self._fixed(_one_number_a_token)

    def output_of(self, names: Collection[str]) -> str | None:
        """The last of an attention's linears to run."""
        return next((name for name in reversed(self.usual.inputs) if name in names), None)

    def heads(self, value: str, output: str) -> ValueHeads | None:
        """The heads through which `value` reaches `output`, if it does so plainly."""
        taken = [run.inputs.get(output, []) for run in (self.ones, self.labelled, self.spoken)]
        if any(len(found) != 1 for found in taken) or len(self.usual.outputs[value]) != 1:
            return None
        ones, labelled, spoken = (found[0].flatten(0, -2) for found in taken)
        source = self._sources(value, ones, labelled)
        if source is None:
            return None
        width = _width(torch.cat([ones, spoken]))
        if width is None or not self._whole_heads(source, width):
            return None
        starts = source[::width].tolist()
        return ValueHeads(value, output, width, tuple(sorted(set(starts))), len(starts))

    def _sources(self, value: str, ones: Tensor, labelled: Tensor) -> Tensor | None:
        """The value channel that each input channel reads, [channels]; None if not just one."""
        if bool((ones.abs() < _CLOSE).any()):
            return None
        ratio = labelled / ones
        if float((ratio - ratio[:1]).abs().max()) > _CLOSE:
            return None
        free = torch.nonzero(self.values[value]).flatten()
        apart = (ratio[0][:, None] - self.labels[value][free]).abs()
        nearest = apart.min(1)
        return free[nearest.indices] if float(nearest.values.max()) < _CLOSE else None

    @staticmethod
    def _whole_heads(source: Tensor, width: int) -> bool:
        """Whether each head reads `width` neighbours in order, and no two heads share a part."""
        runs = source.view(-1, width)
        starts = sorted(set(runs[:, 0].tolist()))
        apart = all(one + width <= other for one, other in pairwise(starts))
        return apart and bool((runs - runs[:, :1] == torch.arange(width)).all())

    def _fixed(self, made: Callable[[str, Tensor], Tensor]) -> _Runs:
        def replaced(name: str, output: Tensor) -> Tensor:
            usual = self.usual.outputs.get(name)
            if not usual:
                return output
            siblings = [one for one in self.values if _parent(one) == _parent(name)]
            if name == self.output_of(siblings):
                return usual[0]
            free = self.values[name]
            return torch.where(free, made(name, usual[0]), usual[0])

        return self._run(replaced)

    def _run(self, replaced: Callable[[str, Tensor], Tensor]) -> _Runs:
        runs = _Runs()
        with _hooked(self.twin.model, self.values, runs, replaced), torch.no_grad(), Float64():
            self.twin.model(**self.twin.inputs)
        return runs


@contextmanager
def _hooked(
    model: nn.Module,
    modules: Mapping[str, Tensor],
    runs: _Runs,
    replaced: Callable[[str, Tensor], Tensor],
) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, Any, Any, Any], Any]:
        def note(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            (taken,) = (*args, *kwargs.values())
            runs.inputs.setdefault(name, []).append(taken.detach().clone())
            given = replaced(name, output)
            runs.outputs.setdefault(name, []).append(given.detach().clone())
            return given

        return note

    with ExitStack() as stack:
        for name in modules:
            handle = model.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _width(rows: Tensor) -> int | None:
    """Channels of a head: how many neighbours agree on every token. rows: [tokens, channels]."""
    differs = (rows.diff(dim=1).abs() > _CLOSE).any(0)
    ends = [int(end) + 1 for end in torch.nonzero(differs).flatten()] + [rows.shape[1]]
    width = ends[0]
    if width < 2:
        return None
    return width if ends == list(range(width, rows.shape[1] + 1, width)) else None


def _one_number_a_token(name: str, like: Tensor) -> Tensor:
    tokens = torch.rand(like.shape[:-1], generator=_seeded(7), dtype=torch.float64) + 0.5
    return tokens.unsqueeze(-1).expand_as(like)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
