"""Store the floating tensors in another dtype.

Contract: exact up to the one rounding to the new dtype. 8-bit and smaller tensors pass untouched.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import UsageError
from normsurgery.nearest import did_you_mean
from normsurgery.surgery.receipt import Receipt, receipt_of

DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}


def stored_dtype(name: str) -> str:
    """The safetensors spelling of a dtype option; UsageError for one that is not offered."""
    try:
        return DTYPES[name]
    except KeyError:
        raise UsageError(
            f"--dtype {name} is not one of {', '.join(DTYPES)}",
            f"{did_you_mean(name, DTYPES)}leave it out to keep the source's",
        ) from None


def widens(source: Checkpoint, dtype: str) -> bool:
    """Whether the cast adds precision to some tensor (then it comes before the algebra)."""
    return any(_BITS[dtype] > _BITS.get(tensor.dtype, 64) for tensor in source.values())


def cast(source: Checkpoint, dtype: str) -> tuple[Checkpoint, Receipt]:
    """Cast every F64, F32, F16 and BF16 tensor. dtype: safetensors spelling."""
    edits = {
        name: LazyTensor.compute(partial(_cast, tensor, dtype), dtype, tensor.shape)
        for name, tensor in source.items()
        if tensor.dtype in _BITS and tensor.dtype != dtype
    }
    torch_name = next(name for name, spelling in DTYPES.items() if spelling == dtype)
    key = "torch_dtype" if "torch_dtype" in source.config else "dtype"
    result = source.override(edits).with_config({**source.config, key: torch_name})
    return result, receipt_of(
        "cast", source, result, changed=edits, parameters={"dtype": torch_name}
    )


def _cast(tensor: LazyTensor, dtype: str) -> torch.Tensor:
    torch_name = next(name for name, spelling in DTYPES.items() if spelling == dtype)
    return tensor.load().to(getattr(torch, torch_name))


def as_dtype(tensor: LazyTensor, dtype: str) -> LazyTensor:
    """One tensor in another dtype, row by row. dtype: safetensors spelling."""
    if tensor.dtype == dtype:
        return tensor
    torch_name = next(name for name, spelling in DTYPES.items() if spelling == dtype)
    wanted: torch.dtype = getattr(torch, torch_name)
    return replace(tensor.map(lambda rows: rows.to(wanted), by_rows=True), dtype=dtype)
