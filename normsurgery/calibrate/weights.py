"""A model whose parameters have no storage, filled piece by piece from a checkpoint.

Values are read through the names that the loader would use, so every dialect on disk is understood:
renamed, transposed, stacked, joined and tied tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.names import Part
from normsurgery.anatomy.runtime import quiet
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import CheckpointError


def hollow_model(examination: Examination, dtype: torch.dtype) -> Any:
    """The model in eval mode: parameters on the meta device, buffers as its code computes them."""
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    config = copy.deepcopy(examination.config)
    # the fast kernels for experts know neither float64 nor odd widths
    config._experts_implementation = "eager"
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # as from_pretrained(dtype=…) does: code asks for it
    try:
        with quiet(), no_init_weights(), init_empty_weights(include_buffers=False):
            model: Any = examination.model_class(config)
            model.tie_weights()
    finally:
        torch.set_default_dtype(before)
    # computes the buffers once more, in the process's default dtype: so does from_pretrained
    model.initialize_weights()
    return model.eval().requires_grad_(False)


class Loader:
    """Fills modules of a hollow model, and empties them again.

    bytes_read: of the checkpoint, for whoever counts.
    """

    def __init__(
        self, model: Any, checkpoint: Checkpoint, examination: Examination,
        *, device: torch.device, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self.model, self.checkpoint, self.device, self.dtype = model, checkpoint, device, dtype
        self.names = examination.names
        self.bytes_read = 0
        self._meta = dict(_state(model))
        self._stored: dict[str, list[tuple[str, Part]]] = {}
        for disk, part in self.names.parts.items():
            self._stored.setdefault(part.parameter, []).append((disk, part))

    def fill(self, prefix: str, *, without: tuple[str, ...] = ()) -> None:
        """Load every parameter and stored buffer below a module path, except below `without`.

        A tensor that several names share is loaded once, and stays shared.
        Raises CheckpointError where the checkpoint does not hold all of a parameter.
        """
        loaded: dict[int, Tensor] = {}
        for name, meta in self._below(prefix, without):
            if id(meta) not in loaded:
                value = self.value(name, meta)
                loaded[id(meta)] = _as(meta, value) if isinstance(meta, nn.Parameter) else value
            _put(self.model, name, loaded[id(meta)])

    def empty(self, prefix: str) -> None:
        """Give the memory of a module's parameters and stored buffers back."""
        for name, meta in self._below(prefix, ()):
            _put(self.model, name, meta)

    @contextmanager
    def filled(self, prefix: str) -> Iterator[nn.Module]:
        """The module with its weights, which are given back at the end."""
        self.fill(prefix)
        try:
            yield self.model.get_submodule(prefix)
        finally:
            self.empty(prefix)

    def value(self, name: str, like: Tensor) -> Tensor:
        """A parameter's value in our dtype, on our device. like: a tensor of its shape."""
        dtype = self.dtype if like.is_floating_point() else like.dtype
        joint = self.names.joint(name)
        if joint is not None:
            return self._piece(joint, name, like).to(self.device, dtype)
        result = torch.empty(like.shape, dtype=dtype, device=self.device)
        missing = result.numel()
        for disk, part in self._holding(name):
            stored = self.checkpoint[disk].load()
            self.bytes_read += stored.nbytes
            target = part.cut(result)
            target.copy_(stored)
            missing -= target.numel()
        if missing:
            raise CheckpointError(
                f"the checkpoint does not hold all of {name}",
                "parameters that no file has would be drawn at random",
            )
        return result

    def _holding(self, name: str) -> list[tuple[str, Part]]:
        """The tensors on disk that hold a parameter: under its own name, else a tied one's."""
        if name in self._stored:
            return self._stored[name]
        group = self.names.tied.get(name, name)
        for other, held in self._stored.items():
            if self.names.tied.get(other, other) == group:
                return held
        return []

    def _piece(self, joint: str, name: str, like: Tensor) -> Tensor:
        """The rows of a tensor that concatenates several parameters which belong to `name`."""
        start = 0
        for other in self.names.joins[joint]:
            if other == name:
                break
            start += len(self._meta[other])
        rows = self.checkpoint[joint].rows(start, start + len(like))
        self.bytes_read += rows.nbytes
        return rows

    def _below(self, prefix: str, without: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        for name, meta in self._meta.items():
            inside = not prefix or name.startswith(prefix + ".")
            if inside and not any(name.startswith(f"{other}.") for other in without):
                yield name, meta


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and the buffers that a checkpoint holds, under every name they have."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    yield from parameters.items()
    for name in model.state_dict():
        if name not in parameters:
            yield name, model.get_buffer(name)


def _as(meta: nn.Parameter, value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def _put(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    table: dict[str, Any] = module._parameters if leaf in module._parameters else module._buffers
    table[leaf] = value
