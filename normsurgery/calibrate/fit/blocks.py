"""A loaded block in which weights are being replaced, and what its linears are given in a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
        self, batch: int, x: Tensor, modules: Sequence[str], *, leave: bool = True, calls: str = ""
    ) -> Taken:
        """What submodules are given in a run. leave: end it when all have been given their input.

        calls: a submodule whose arguments are kept.
        """
        found = Taken()
        with ExitStack() as hooks:
            if calls:
                child = self.module.get_submodule(calls)
                hook = child.register_forward_pre_hook(_keep_call(found), with_kwargs=True)
                hooks.callback(hook.remove)
            wanted = len(modules) if leave else 0
            for name in modules:
                note = _keep_input(found, name, wanted)
                hook = self.module.get_submodule(name).register_forward_pre_hook(note)
                hooks.callback(hook.remove)
            try:
                found.output = self.run(batch, x)
            except Leave:
                pass
        return found

    def again(self, batch: int, x: Tensor, module: str, child: str, call: Any) -> Tensor:
        """What a submodule is given with other weights, [rows, time, …].

        child: the module that holds all that changed, and call its arguments ("": the whole block
        runs again).
        """
        if not child:
            return self.taken(batch, x, [module]).inputs[module]
        found = Taken()
        hook = self.module.get_submodule(module).register_forward_pre_hook(
            _keep_input(found, module, 1)
        )
        try:
            with torch.no_grad():
                self.module.get_submodule(child)(*call[0], **call[1])
        except Leave:
            pass
        finally:
            hook.remove()
        return found.inputs[module]

    def common(self, module: str, parameters: Iterable[str]) -> str:
        """The innermost module that holds a submodule and parameters; "" if only the block does."""
        paths = [module.split("."), *(name.split(".") for name in parameters)]
        shared: list[str] = []
        for pieces in zip(*paths, strict=False):
            if len(set(pieces)) > 1:
                break
            shared.append(pieces[0])
        return ".".join(shared)


@dataclass
class Taken:
    """Inputs of submodules in one run, [rows, time, …] each; the block's output if it ended."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    output: Tensor | None = None
    call: tuple[tuple[Any, ...], dict[str, Any]] | None = None


def _keep_call(found: Taken) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.call = args, kwargs

    return hook


def _keep_input(found: Taken, name: str, wanted: int) -> Any:
    """A hook that leaves the run when `wanted` inputs are there (0: never)."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        found.inputs[name] = args[0].detach()
        if len(found.inputs) == wanted:
            raise Leave

    return hook


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
