"""Counting what should not be in weights, a bounded chunk at a time."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from normsurgery.checkpoint.tensor import LazyTensor

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_BYTES = 4 << 20
# F8_E4M3, both FNUZ forms and E8M0 have NaN but no infinity; F4 and F6 have neither
_WITH_NONFINITE = frozenset(
    "F64 F32 F16 BF16 C64 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ".split()
)


def count_nonfinite(tensor: LazyTensor) -> tuple[int, int]:
    """How many elements are NaN and how many infinite; integers have none of either.

    The two parts of a complex number count apart.
    """
    nan = inf = 0
    if tensor.dtype not in _WITH_NONFINITE:
        return nan, inf
    for chunk in tensor.pieces(bytearray(CHUNK_BYTES)):
        more = nonfinite_in(chunk, tensor.dtype)
        nan, inf = nan + more[0], inf + more[1]
    return nan, inf


def nonfinite_in(chunk: bytes | bytearray | memoryview, dtype: str) -> tuple[int, int]:
    """NaN and infinities in raw bytes that begin and end on an element."""
    import torch

    if dtype not in _WITH_NONFINITE or len(chunk) == 0:
        return 0, 0
    values = _floats(chunk, dtype)
    # min and max let NaN through and cost a tenth of isfinite over all, which most chunks never see
    low, high = torch.aminmax(values)
    if isfinite(low.item()) and isfinite(high.item()):
        return 0, 0
    return int(values.isnan().sum()), int(values.isinf().sum())


def is_all_zero(tensor: LazyTensor) -> bool:
    """Whether every element is 0 (−0 included in the wider float types); True for an empty one."""
    for chunk in tensor.pieces(bytearray(CHUNK_BYTES)):
        if tensor.dtype in ("F64", "F32", "F16", "BF16"):
            if _floats(chunk, tensor.dtype).any():
                return False
        elif bytes(chunk).strip(b"\0"):
            return False
    return True


def _floats(chunk: bytes | bytearray | memoryview, dtype: str) -> Tensor:
    import torch

    from normsurgery.checkpoint.dtypes import torch_dtype

    writable = bytearray(chunk) if memoryview(chunk).readonly else chunk
    values = torch.frombuffer(writable, dtype=torch.uint8).view(torch_dtype(dtype))
    if dtype.startswith("F8"):
        return values.float()
    return torch.view_as_real(values) if dtype == "C64" else values
