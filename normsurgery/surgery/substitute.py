"""Put fitted weights into a checkpoint, in the dialect that it has on disk.

Contract: fitted. The weights were fitted to calibration text elsewhere (`calibrate/`); here they
replace the old ones, whichever tensors on disk hold them: renamed, transposed, stacked or joined.
Knows nothing of text, models or the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from normsurgery.anatomy.names import NameMap, Part
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import SurgeryError, UnsupportedModelError
from normsurgery.surgery.receipt import Receipt, receipt_of


def substitute_weights(
    source: Checkpoint,
    names: NameMap,
    weights: Mapping[str, Tensor],
    *,
    parameters: Mapping[str, Any],
    notes: Iterable[str] = (),
) -> tuple[Checkpoint, Receipt]:
    """The checkpoint with new values for some parameters, and the receipt.

    weights: parameter in memory → new value, of its shape. parameters: of the receipt.
    Raises UnsupportedModelError where another parameter shares a tensor with one of them, or pieces
    of different sizes do.
    """
    edits: dict[str, LazyTensor] = {}
    for parameter, value in weights.items():
        joint = names.joint(parameter)
        if joint is not None:
            rows = _rows_of(source, names, joint, parameter, value)
            tensor = edits.get(joint, source[joint])
            edits[joint] = tensor.map(partial(_with_rows, start=rows, value=value))
            continue
        for disk, part in names.on_disk(parameter):
            if part.parameter != parameter:
                raise UnsupportedModelError(
                    f"{parameter} shares its tensor with {part.parameter}: both would change",
                    "drop the blocks as they are: --substitute none",
                )
            edits[disk] = source[disk].map(partial(_of_part, part=part, value=value))
    result = source.override(edits)
    receipt = receipt_of(
        "substitute", source, result, changed=edits, parameters=dict(parameters), notes=notes
    )
    return result, replace(receipt, contract="fitted")


def _of_part(stored: Tensor, *, part: Part, value: Tensor) -> Tensor:
    """What stands on disk for the new value; rounded once, if the fit has not done so."""
    new = part.cut(value)
    if new.shape != stored.shape:
        raise SurgeryError(f"internal error: {part.parameter} was fitted as {list(value.shape)}")
    return new.to(stored.dtype).contiguous()


def _with_rows(stored: Tensor, *, start: int, value: Tensor) -> Tensor:
    """A tensor that joins several parameters, with the rows of one of them replaced."""
    new = stored.clone()
    new[start : start + len(value)] = value.to(stored.dtype)
    return new


def _rows_of(source: Checkpoint, names: NameMap, joint: str, parameter: str, value: Tensor) -> int:
    """The first row of a parameter in a tensor that joins several of the same size."""
    held = names.joins[joint]
    if source[joint].shape[0] != len(held) * len(value):
        raise UnsupportedModelError(
            f"{parameter} is stored as a piece of {joint}, whose pieces differ in size",
            "drop the blocks as they are: --substitute none",
        )
    return held.index(parameter) * len(value)
