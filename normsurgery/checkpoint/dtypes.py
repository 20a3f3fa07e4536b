"""Element types of the safetensors format, and their torch counterparts.

Source: `Dtype` of safetensors 0.8 (tensor.rs) and the table of safetensors.torch. Torch is imported
only when a torch dtype is asked for. F6 has none at all, F4 is two elements to a byte in torch.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from normsurgery.errors import CheckpointError, SurgeryError

if TYPE_CHECKING:
    import torch

BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

_TORCH_NAMES: dict[str, str] = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}

_LIMIT = 1 << 63


def count_elements(shape: tuple[int, ...]) -> int | None:
    """Number of elements, None where a dimension or the product does not fit in 63 bits."""
    product = 1
    for size in shape:
        if not 0 <= size < _LIMIT:
            return None
        product *= max(size, 1)
        if product >= _LIMIT:
            return None
    return 0 if 0 in shape else product


def torch_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a safetensors one.

    Raises CheckpointError where this torch has none (F6, or a newer type than this torch).
    """
    import torch

    if sys.byteorder != "little":
        raise SurgeryError(
            "tensors can only be computed with on a little-endian machine",
            "copying a checkpoint works here; run this command on x86-64 or arm64",
        )
    found = getattr(torch, _TORCH_NAMES.get(dtype, ""), None)
    if not isinstance(found, torch.dtype):
        raise CheckpointError(
            f"torch {torch.__version__} has no {dtype}, so it cannot be computed with",
            "tensors of this type can only be copied as they are",
        )
    return found


def torch_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the torch tensor: F4 holds two elements in each byte of the last axis."""
    if dtype != "F4":
        return shape
    if not shape or shape[-1] % 2:
        raise CheckpointError(
            f"F4 of shape {list(shape)} has an odd last axis, which torch cannot represent",
            "tensors of this type can only be copied as they are",
        )
    return (*shape[:-1], shape[-1] // 2)


def described(tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    """The safetensors dtype and shape of a torch tensor.

    Raises CheckpointError for a dtype that the format cannot hold (complex128, quantized types).
    """
    name = str(tensor.dtype).removeprefix("torch.")
    for dtype, spelling in _TORCH_NAMES.items():
        if spelling == name:
            shape = tuple(tensor.shape)
            return dtype, (*shape[:-1], shape[-1] * 2) if dtype == "F4" else shape
    raise CheckpointError(
        f"safetensors cannot hold {tensor.dtype}", "convert the tensor to another dtype first"
    )
