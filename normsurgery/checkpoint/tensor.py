"""A tensor that is read, or computed, only when somebody needs it.

Three kinds: a run of bytes in a file, a torch tensor in memory, and a function of those. Laziness
composes: a chain of maps costs one read. Row-wise maps are streamed slab by slab, so their memory
does not grow with the tensor.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from normsurgery.checkpoint.dtypes import (
    BITS,
    count_elements,
    described,
    torch_dtype,
    torch_shape,
)  # fmt: skip
from normsurgery.checkpoint.files import FileRange, read_into
from normsurgery.checkpoint.mapped import mapped_bytes
from normsurgery.errors import CheckpointError, SurgeryError

if TYPE_CHECKING:
    from torch import Tensor

SLAB_BYTES = 8 << 20  # of the stored dtype; a float64 copy of BF16 is four times that


class Source(Protocol):
    """Where a LazyTensor's elements come from; `of` tells dtype and shape."""

    def load(self, of: LazyTensor) -> Tensor:
        """All of it."""

    def rows(self, of: LazyTensor, start: int, stop: int) -> Tensor:
        """A slab of the leading axis."""

    def streams(self) -> bool:
        """Whether `rows` costs no more than the rows."""


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """dtype in safetensors' spelling, shape in elements, and the way to the bytes.

    label: the tensor's name, for messages only; a Checkpoint sets it.
    """

    dtype: str
    shape: tuple[int, ...]
    source: Source = field(repr=False)
    label: str = ""

    @staticmethod
    def from_file(dtype: str, shape: tuple[int, ...], run: FileRange, label: str) -> LazyTensor:
        """A run of bytes of a file whose header has been checked."""
        return LazyTensor(dtype, shape, _Stored(run), label)

    @staticmethod
    def of(tensor: Tensor) -> LazyTensor:
        """A tensor in memory. Raises CheckpointError if safetensors cannot hold its dtype."""
        dtype, shape = described(tensor)
        return LazyTensor(dtype, shape, _Held(tensor.detach()))

    @staticmethod
    def compute(function: Callable[[], Tensor], dtype: str, shape: tuple[int, ...]) -> LazyTensor:
        """A tensor that `function` makes, each time it is needed."""
        return LazyTensor(dtype, tuple(shape), _Computed(function))

    @property
    def numel(self) -> int:
        """Number of elements."""
        return count_elements(self.shape) or 0

    @property
    def nbytes(self) -> int:
        """Size on disk."""
        return self.numel * BITS[self.dtype] // 8

    @property
    def range(self) -> FileRange | None:
        """The run of a file that holds exactly these bytes, None if they are computed."""
        return self.source.run if isinstance(self.source, _Stored) else None

    def named(self, label: str) -> LazyTensor:
        """The same tensor under another name in messages."""
        return self if label == self.label else replace(self, label=label)

    def map(self, function: Callable[[Tensor], Tensor], *, by_rows: bool = False) -> LazyTensor:
        """Apply `function` when read; it keeps dtype and shape.

        by_rows: function acts on each slab of the leading axis by itself, so it is streamed.
        """
        by_rows = by_rows and bool(self.shape)
        return replace(self, source=_Mapped(self, function, by_rows))

    def filled(self, value: float) -> LazyTensor:
        """One number everywhere, in the same dtype and shape; what was there is not read."""
        return replace(self, source=_Filled(value))

    def load(self) -> Tensor:
        """The whole tensor. File-backed: a private memory map, so nothing is copied until written.

        Raises SurgeryError if a function made another dtype or shape than declared.
        """
        return self._checked(self.source.load(self), self.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start to stop of the leading axis; reads only these where the source allows."""
        if not self.shape or not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start}:{stop} of {self.label or 'a tensor'} {self.shape}")
        slab = self.source.rows(self, start, stop)
        return self._checked(slab, (stop - start, *self.shape[1:]))

    def slabs(self) -> Iterator[Tensor]:
        """The tensor as consecutive slabs of the leading axis, of bounded size if it streams."""
        if not self.shape or not self.source.streams():
            yield self.load()
            return
        step = self.rows_per_slab
        for start in range(0, self.shape[0], step):
            yield self.rows(start, min(start + step, self.shape[0]))

    @property
    def rows_per_slab(self) -> int:
        """How many rows make a slab of about SLAB_BYTES."""
        row_bytes = self.nbytes // max(1, self.shape[0])
        step = max(1, SLAB_BYTES // max(1, row_bytes))
        # F4 packs two elements to a byte along the last axis, which here is the leading one too
        return step + step % 2 if len(self.shape) == 1 else step

    def chunks(self, max_bytes: int) -> Iterator[memoryview | bytes]:
        """The raw little-endian bytes in order, at most max_bytes each."""
        if isinstance(self.source, _Stored):
            yield from map(bytes, read_into(self.source.run, bytearray(max_bytes)))
            return
        for slab in self.slabs():
            view = raw_bytes(slab)
            for start in range(0, len(view), max_bytes):
                yield view[start : start + max_bytes]

    def pieces(self, buffer: bytearray) -> Iterator[memoryview | bytes]:
        """As `chunks`, but a file's bytes come in `buffer`: each piece overwrites the last."""
        if isinstance(self.source, _Stored):
            return read_into(self.source.run, buffer)
        return self.chunks(len(buffer))

    def _checked(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        dtype, got = described(tensor)
        if dtype != self.dtype or got != shape:
            raise SurgeryError(
                f"internal error: {self.label or 'a tensor'} came out as {dtype} {list(got)} "
                f"where {self.dtype} {list(shape)} was declared",
                "please report this, with the command and the model",
            )
        return tensor


@dataclass(frozen=True)
class _Stored:
    run: FileRange

    def load(self, of: LazyTensor) -> Tensor:
        return self._view(of, self.run, of.shape)

    def rows(self, of: LazyTensor, start: int, stop: int) -> Tensor:
        row_bits = (count_elements(of.shape[1:]) or 0) * BITS[of.dtype]
        if row_bits * start % 8 or row_bits * stop % 8:
            raise CheckpointError(
                f"{of.label}: rows of {of.dtype} {list(of.shape)} do not begin on a byte",
                "tensors of this type can only be copied as they are",
            )
        begin, end = row_bits * start // 8, row_bits * stop // 8
        run = replace(self.run, offset=self.run.offset + begin, length=end - begin)
        return self._view(of, run, (stop - start, *of.shape[1:]))

    def streams(self) -> bool:
        return True

    @staticmethod
    def _view(of: LazyTensor, run: FileRange, shape: tuple[int, ...]) -> Tensor:
        dtype = torch_dtype(of.dtype)
        return mapped_bytes(run, BITS[of.dtype] // 8 or 1).view(dtype).view(
            torch_shape(of.dtype, shape)
        )  # fmt: skip


@dataclass(frozen=True)
class _Held:
    tensor: Tensor

    def load(self, of: LazyTensor) -> Tensor:
        return self.tensor

    def rows(self, of: LazyTensor, start: int, stop: int) -> Tensor:
        if of.dtype == "F4" and len(of.shape) == 1:
            start, stop = start // 2, stop // 2
        return self.tensor[start:stop]

    def streams(self) -> bool:
        return True


@dataclass(frozen=True)
class _Computed:
    function: Callable[[], Tensor]

    def load(self, of: LazyTensor) -> Tensor:
        return self.function()

    def rows(self, of: LazyTensor, start: int, stop: int) -> Tensor:
        return of.load()[start:stop]

    def streams(self) -> bool:
        return False


@dataclass(frozen=True)
class _Filled:
    value: float

    def load(self, of: LazyTensor) -> Tensor:
        return self._made(of, of.shape)

    def rows(self, of: LazyTensor, start: int, stop: int) -> Tensor:
        return self._made(of, (stop - start, *of.shape[1:]))

    def streams(self) -> bool:
        return True

    def _made(self, of: LazyTensor, shape: tuple[int, ...]) -> Tensor:
        import torch

        return torch.full(shape, self.value, dtype=torch_dtype(of.dtype))


@dataclass(frozen=True)
class _Mapped:
    parent: LazyTensor
    function: Callable[[Tensor], Tensor]
    by_rows: bool

    def load(self, of: LazyTensor) -> Tensor:
        if not self.streams():
            return self.function(self.parent.load())
        # slab by slab, so that a loaded tensor has the bytes of a streamed one and a function that
        # widens to float64 never holds a wide copy of the whole
        import torch

        result = torch.empty(torch_shape(of.dtype, of.shape), dtype=torch_dtype(of.dtype))
        start = 0
        for slab in of.slabs():
            result[start : start + len(slab)] = slab
            start += len(slab)
        return result

    def rows(self, of: LazyTensor, start: int, stop: int) -> Tensor:
        if self.streams():
            return self.function(self.parent.rows(start, stop))
        return of.load()[start:stop]

    def streams(self) -> bool:
        return self.by_rows and self.parent.source.streams()


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in memory order, without a copy where it is contiguous and on the CPU.

    The view keeps the tensor alive.
    """
    import torch

    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().view(-1)
    flat = flat.view(torch.uint8)
    buffer = (ctypes.c_ubyte * flat.numel()).from_address(flat.data_ptr()) if len(flat) else b""
    if not isinstance(buffer, bytes):
        buffer.tensor = flat  # type: ignore[attr-defined]  # the memory is the tensor's
    return memoryview(buffer).cast("B")
