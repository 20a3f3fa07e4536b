"""Hidden states of all batches: in memory up to a limit, in memory-mapped files above it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from normsurgery.errors import ResourceError, UsageError
from normsurgery.verify.load import available_memory_bytes

_NUMBERS = itertools.count()


class HiddenStates:
    """A stream per batch: `states[i]` → [rows, time, d] on the CPU; `states[i] = x` replaces it.

    shapes: of the batches. limit: bytes held in memory (None: half of what is free); where all of
    it is more, each batch is a file in `directory`, named after `name`.
    A tensor that comes from a file shows the file: it is valid until that batch is replaced.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        dtype: torch.dtype,
        *,
        directory: Path | None = None,
        limit: int | None = None,
        name: str = "stream",
    ) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        self.dtype = dtype
        # two of one name do not share files
        self.name = f"{name}.{next(_NUMBERS)}"
        self._offered, self._limit = directory, limit
        wanted = self.nbytes
        limit = available_memory_bytes() // 2 if limit is None else limit
        self.directory = directory if wanted > limit else None
        if wanted > limit and directory is None:
            raise UsageError(
                f"the hidden states take {wanted:,} bytes, and {limit:,} may be held in memory",
                "name a directory for them, or read fewer tokens",
            )
        self._held: list[Tensor | None] = [None] * len(self.shapes)
        self._written: set[int] = set()
        if self.directory is not None:
            self._check_disk(self.directory, wanted)

    @property
    def nbytes(self) -> int:
        """Bytes of all batches."""
        return sum(torch.Size(shape).numel() for shape in self.shapes) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, batch: int) -> Tensor:
        if self.directory is not None:
            if batch not in self._written:
                raise IndexError(f"batch {batch} of {self.name} was never set")
            return self._mapped(batch)
        held = self._held[batch]
        if held is None:
            raise IndexError(f"batch {batch} of {self.name} was never set")
        return held

    def __setitem__(self, batch: int, value: Tensor) -> None:
        if tuple(value.shape) != self.shapes[batch]:
            raise ValueError(f"batch {batch} is {self.shapes[batch]}, not {tuple(value.shape)}")
        value = value.detach().to("cpu", self.dtype)
        if self.directory is None:
            self._held[batch] = value
        else:
            self._mapped(batch).copy_(value)
            self._written.add(batch)

    def copy(self, name: str) -> HiddenStates:
        """The same values under another name, free to be replaced."""
        limit = self._limit
        if self.directory is not None:
            limit = -1
        elif limit is not None or self._offered is None:
            limit = self.nbytes
        other = HiddenStates(
            self.shapes, self.dtype, directory=self._offered, limit=limit, name=name
        )
        for batch in range(len(self)):
            # a batch in memory is replaced, never written into: it can be shared
            other[batch] = self[batch]
        return other

    def close(self) -> None:
        """Give the memory or the files back."""
        self._held = [None] * len(self.shapes)
        if self.directory is not None:
            for batch in self._written:
                self._path(batch).unlink(missing_ok=True)
            self._written.clear()

    def _path(self, batch: int) -> Path:
        assert self.directory is not None
        return self.directory / f"{self.name}.{batch:05}.bin"

    def _mapped(self, batch: int) -> Tensor:
        shape, path = self.shapes[batch], self._path(batch)
        size = torch.Size(shape).numel()
        return torch.from_file(str(path), shared=True, size=size, dtype=self.dtype).view(shape)

    @staticmethod
    def _check_disk(directory: Path, wanted: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
        if wanted > free:
            raise ResourceError(
                f"the hidden states take {wanted:,} bytes, {directory} has {free:,} free",
                "read fewer tokens, or name a directory on another disk",
            )
