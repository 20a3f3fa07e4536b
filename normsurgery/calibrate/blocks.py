"""A loaded block in which weights are being replaced, and what its linears are given in a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.block_writers import BlockWriter
from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.passing import Leave


class LoadedBlock:
    """One source block with its weights. changed: parameter → its new value in storage dtype."""

    def __init__(self, blockwise: Blockwise, index: int, module: nn.Module) -> None:
        self.blockwise, self.index, self.module = blockwise, index, module
        self.changed: dict[str, Tensor] = {}

    def value(self, parameter: str) -> Tensor:
        """The present value of a parameter, named relative to the block: float64."""
        return self.module.get_parameter(parameter).detach().double()

    def put(self, parameter: str, value: Tensor) -> None:
        """Replace a parameter. It is rounded to the storage dtype, here as in the result."""
        present = self.module.get_parameter(parameter)
        stored = value.to(self._storage(parameter))
        self.changed[parameter] = stored.cpu().contiguous()
        present.data = stored.to(present.device, present.dtype).contiguous()

    def _storage(self, parameter: str) -> torch.dtype:
        blockwise = self.blockwise
        full = f"{blockwise.stack.blocks[self.index]}.{parameter}"
        return storage_dtype(blockwise, full)

    @contextmanager
    def lent(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """The block with other values of some parameters, as it was afterwards."""
        before = {name: self.module.get_parameter(name).data for name in values}
        try:
            for name, value in values.items():
                present = self.module.get_parameter(name)
                present.data = value.to(present.device, present.dtype)
            yield
        finally:
            for name, held in before.items():
                self.module.get_parameter(name).data = held

    def run(self, batch: int, x: Tensor) -> Tensor:
        """The stream after the block. x: [rows, time, d]."""
        with torch.no_grad():
            return self.blockwise.run(self.module, self.index, batch, x)

    def taken(
        self, batch: int, x: Tensor, modules: Sequence[str], *, leave: bool = True
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """What submodules are given in a run, [rows, time, …] each, and the block's output.

        leave: end the run when the last of them has been given its input (no output then).
        """
        found: dict[str, Tensor] = {}

        def note(name: str) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                found[name] = args[0].detach()
                if leave and len(found) == len(modules):
                    raise Leave

            return hook

        output = None
        with ExitStack() as hooks:
            for name in modules:
                hook = self.module.get_submodule(name).register_forward_pre_hook(note(name))
                hooks.callback(hook.remove)
            try:
                output = self.run(batch, x)
            except Leave:
                pass
        return found, output


class Linear:
    """A writer as a linear map of its input: contribution = factor · (W h + b).

    matrix: [out, in], or [out, in + 1] with the bias as the last column.
    """

    def __init__(self, block: LoadedBlock, writer: BlockWriter) -> None:
        self.block, self.writer = block, writer

    @property
    def matrix(self) -> Tensor:
        """The present weight and bias, float64."""
        weight = self.block.value(self.writer.weight)
        if self.writer.transposed:
            weight = weight.T
        if self.writer.bias is None:
            return weight
        return torch.cat([weight, self.block.value(self.writer.bias)[:, None]], 1)

    def put(self, matrix: Tensor) -> None:
        """Replace weight and bias."""
        writer = self.writer
        if writer.bias is not None:
            self.block.put(writer.bias, matrix[:, -1])
            matrix = matrix[:, :-1]
        self.block.put(writer.weight, matrix.T if writer.transposed else matrix)

    def contribution(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """What a matrix of this writer's form adds: weight [d, in] and constant [d], float64."""
        scaled = self.writer.factor * matrix
        if self.writer.bias is None:
            return scaled, scaled.new_zeros(len(scaled))
        return scaled[:, :-1], scaled[:, -1]


def with_ones(rows: Tensor, ones: bool) -> Tensor:
    """[n, p], or [n, p + 1] with a column of ones."""
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1) if ones else rows


def why_not_linear(writer: BlockWriter) -> str:
    """Why a writer's weight cannot be a regression's result, or ""."""
    if writer.experts or writer.siblings:
        return "experts share what is added"
    if writer.norm is not None:
        return f"a norm stands between it and the stream ({writer.norm})"
    if writer.gain is not None:
        return f"a gain stands between it and the stream ({writer.gain})"
    if writer.factor == 0.0:
        return "it is multiplied by zero"
    return ""


def storage_dtype(blockwise: Blockwise, parameter: str) -> torch.dtype:
    """The dtype in which the checkpoint holds a parameter."""
    from normsurgery.checkpoint.dtypes import torch_dtype

    names = blockwise.examination.names
    joint = names.joint(parameter)
    disk = joint if joint is not None else names.on_disk(parameter)[0][0]
    return torch_dtype(blockwise.checkpoint[disk].dtype)
