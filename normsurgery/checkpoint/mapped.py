"""Bytes of a file as a torch tensor, memory-mapped."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

from normsurgery.checkpoint.files import FileRange, opened

if TYPE_CHECKING:
    from torch import Tensor


def mapped_bytes(run: FileRange, alignment: int) -> Tensor:
    """The bytes of a run, uint8 [length]; a private map: writing to it never reaches the file.

    alignment: of the elements, in bytes; a run that is not so aligned in its file is copied.
    Raises CheckpointError if the file is not the one whose header was checked.
    """
    import torch

    if run.length == 0:
        return torch.empty(0, dtype=torch.uint8)
    lead = run.offset % mmap.ALLOCATIONGRANULARITY
    with opened(run.path, run.stamp) as descriptor:
        window = mmap.mmap(
            descriptor, lead + run.length, access=mmap.ACCESS_COPY, offset=run.offset - lead
        )
    tensor = torch.frombuffer(window, dtype=torch.uint8, count=run.length, offset=lead)
    return tensor if run.offset % alignment == 0 else tensor.clone()
