"""Where a block's MLP output can be seen while the model runs.

Found on the twin: what the last writer adds is the block's output less its output with that writer
silenced. The outermost module that returns this (times one number) is the place, so that routed
and shared experts, norms behind the MLP and residual factors are all included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.block_writers import BlockWriter
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.runtime import quiet, single_thread
from normsurgery.calibrate.passing import Call, Form, Pool, note_calls
from normsurgery.calibrate.witness import twin_ids

_AGREEMENT = 1e-9


@dataclass(frozen=True)
class Seam:
    """module: path below the block. factor: of its output as it is added."""

    module: str
    factor: float

    @contextmanager
    def seen(self, block: nn.Module, see: Callable[[Tensor], None]) -> Iterator[None]:
        """While open, `see` gets what the MLP adds in each run of the block, [rows × time, d].

        It must copy what it keeps: model code may go on to add to that tensor in place.
        """

        def note(module: nn.Module, args: Any, output: Any) -> None:
            value = _tensor(output)
            assert value is not None
            see(value.detach().reshape(-1, value.shape[-1]))

        hook = block.get_submodule(self.module).register_forward_hook(note)
        try:
            yield
        finally:
            hook.remove()


@single_thread()
def read_seams(
    examination: Examination,
    blocks: Sequence[str],
    forms: Sequence[Form],
    writers: Sequence[Sequence[BlockWriter]],
) -> list[Seam | None]:
    """The seam of every block; None where no single module returns what its MLP adds.

    forms: as `forms_on_twin` found them. writers: as `block_writers` did.
    """
    model = examination.twin.model
    modules = [model.get_submodule(name) for name in blocks]
    with quiet(), torch.no_grad(), Float64():
        calls, stream = note_calls(model, modules, forms, twin_ids(model), Pool())
        return [
            _seam(module, form, call, stream, own[-1].silence) if own else None
            for module, form, call, own in zip(modules, forms, calls, writers, strict=True)
        ]


def _seam(
    block: nn.Module, form: Form, call: Call, x: Tensor, silence: Mapping[str, float]
) -> Seam | None:
    with _outputs(block) as outputs:
        whole = form.stream(call(block, x))
    with _filled(block, silence):
        added = whole - form.stream(call(block, x))
    for name, value in outputs.items():
        factor = _factor(value, added)
        if factor is not None:
            return Seam(name, factor)
    return None


@contextmanager
def _outputs(block: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While open, the tensor that each module below the block returned last, outermost first."""
    outputs: dict[str, Tensor] = {}

    def noting(name: str) -> Any:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            value = _tensor(output)
            if value is not None:
                outputs[name] = value.clone()  # some code adds to it in place

        return note

    names = [name for name, _ in block.named_modules() if name]
    hooks = [block.get_submodule(name).register_forward_hook(noting(name)) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
        for name in sorted(outputs, key=lambda name: name.count(".")):
            outputs[name] = outputs.pop(name)


@contextmanager
def _filled(block: nn.Module, values: Mapping[str, float]) -> Iterator[None]:
    before = {name: block.get_parameter(name).detach().clone() for name in values}
    try:
        for name, value in values.items():
            block.get_parameter(name).fill_(value)
        yield
    finally:
        for name, was in before.items():
            block.get_parameter(name).copy_(was)


def _factor(made: Tensor, added: Tensor) -> float | None:
    """The number f with f · made = added, None where there is none."""
    if made.numel() != added.numel() or made.shape[-1] != added.shape[-1]:
        return None
    made = made.reshape(added.shape)
    factor = float((made * added).sum() / (made * made).sum().clamp_min(1e-300))
    apart = float((made * factor - added).abs().max())
    if not factor or apart > _AGREEMENT * float(added.abs().max()):
        return None
    return 1.0 if abs(factor - 1.0) < _AGREEMENT else factor


def _tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return None
