"""Put other values into a checkpoint's tensors, in its own names, layout and dtype.

Contract: the caller's. The values come from elsewhere (a fit, a training run); here they replace
the old ones, whichever tensors on disk hold them: renamed, transposed, stacked or joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.names import NameMap, Part
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import SurgeryError, UnsupportedModelError
from normsurgery.surgery.receipt import Receipt, receipt_of

FLOATING = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}


def set_parameters(
    source: Checkpoint,
    names: NameMap,
    values: Mapping[str, Tensor],
    *,
    surgery: str,
    contract: str,
    parameters: Mapping[str, Any],
    notes: Iterable[str] = (),
    shared: bool = True,
) -> tuple[Checkpoint, Receipt]:
    """The checkpoint with new values for some parameters, rounded once, and the receipt.

    values: parameter in memory → new value, of its shape, in any floating dtype. A tensor on disk
    that holds one of them, whole or in part, is written anew; every other keeps its bytes.
    shared: whether a parameter may be tied to another, which then changes with it.
    Raises UnsupportedModelError for a tensor stored in an integer or 8-bit format, and for a tied
    parameter where `shared` is false.
    """
    groups = {names.tied.get(name, name): value for name, value in values.items()}
    if not shared:
        _refuse_shared(names, values)
    edits: dict[str, LazyTensor] = {}
    for name, part in names.parts.items():
        value = groups.get(names.tied.get(part.parameter, part.parameter))
        if value is not None:
            edits[name] = _floating(source[name], name).map(partial(_rounded, part, value))
    for name, held in names.joins.items():
        tensor = source[name]
        for parameter in held:
            value = groups.get(names.tied.get(parameter, parameter))
            if value is not None:
                start = _first_row(source, names, groups, name, parameter)
                tensor = _floating(tensor, name).map(partial(_with_rows, start, value))
                edits[name] = tensor
    result = source.override(edits)
    receipt = receipt_of(
        surgery, source, result, changed=edits, parameters=dict(parameters), notes=notes
    )
    return result, replace(receipt, contract=contract)


def _refuse_shared(names: NameMap, values: Mapping[str, Tensor]) -> None:
    for parameter in values:
        group = names.tied.get(parameter, parameter)
        others = [one for one, first in names.tied.items() if first == group and one != parameter]
        if others:
            raise UnsupportedModelError(
                f"{parameter} shares its tensor with {others[0]}: both would change",
                "drop the blocks as they are: --substitute none",
            )


def _floating(tensor: LazyTensor, name: str) -> LazyTensor:
    if tensor.dtype not in FLOATING:
        raise UnsupportedModelError(
            f"{name} is stored as {tensor.dtype}, which holds no value of a fit or a training run",
            "work on the model before it is quantized",
        )
    return tensor


def _rounded(part: Part, value: Tensor, stored: Tensor) -> Tensor:
    """What stands on disk for the new value."""
    new = part.cut(value.detach())
    if new.shape != stored.shape:
        raise SurgeryError(f"internal error: {part.parameter} was given as {list(value.shape)}")
    return new.to("cpu", stored.dtype).contiguous()


def _with_rows(start: int, value: Tensor, stored: Tensor) -> Tensor:
    """A tensor that joins several parameters, with the rows of one of them replaced."""
    new = stored.clone()
    new[start : start + len(value)] = value.detach().to("cpu", stored.dtype)
    return new


def _first_row(
    source: Checkpoint, names: NameMap, groups: Mapping[str, Tensor], joint: str, parameter: str
) -> int:
    """The first row of a parameter in a tensor that joins several of equal or known size."""
    held = names.joins[joint]
    known = {
        name: len(groups[group]) for name in held if (group := names.tied.get(name, name)) in groups
    }
    unknown = [name for name in held if name not in known]
    if unknown:
        rest = source[joint].shape[0] - sum(known.values())
        size, odd = divmod(rest, len(unknown))
        if odd or rest < 0:
            raise UnsupportedModelError(
                f"{parameter} is stored as a piece of {joint}, whose other pieces differ in size",
                "drop the blocks as they are: --substitute none",
            )
        known |= dict.fromkeys(unknown, size)
    return sum(known[name] for name in held[: held.index(parameter)])
