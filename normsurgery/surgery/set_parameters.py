"""Put other values into a checkpoint's tensors, in its own names, layout and dtype.

Contract: the caller's. Refuses a tensor whose dtype holds no floating-point values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import UnsupportedModelError
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
    state: Mapping[str, Tensor],
    changed: Collection[str],
    *,
    surgery: str,
    contract: str,
    parameters: dict[str, Any],
    notes: tuple[str, ...] = (),
) -> tuple[Checkpoint, Receipt]:
    """The checkpoint with the parameters `changed` as they are in `state`, rounded once.

    state: every parameter by its name in memory, in any floating dtype. A tensor on disk that holds
    a changed parameter, whole or in part, is written anew; every other keeps its bytes.
    Raises UnsupportedModelError for a tensor stored in an integer or 8-bit format.
    """
    groups = {names.tied.get(name, name) for name in changed}
    held = [
        name
        for name in (*names.parts, *names.joins)
        if any(names.tied.get(one, one) in groups for one in names.held_by(name))
    ]
    edits = {name: _stored(source[name], names, name, state) for name in held}
    result = source.override(edits)
    receipt = receipt_of(surgery, source, result, changed=held, parameters=parameters, notes=notes)
    return result, replace(receipt, contract=contract)


def _stored(old: LazyTensor, names: NameMap, name: str, state: Mapping[str, Tensor]) -> LazyTensor:
    if old.dtype not in FLOATING:
        raise UnsupportedModelError(
            f"{name} is stored as {old.dtype}, which holds no trained value",
            "train the model before it is quantized",
        )
    return LazyTensor.compute(
        partial(_rounded, names, name, state, FLOATING[old.dtype]), old.dtype, old.shape
    )


def _rounded(names: NameMap, name: str, state: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return names.value(name, state).detach().to("cpu", dtype).contiguous()
