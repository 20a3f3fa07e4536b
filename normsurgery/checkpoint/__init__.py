"""Files, not models: checkpoints opened lazily, edited as maps, streamed into place."""

from normsurgery.checkpoint.checkpoint import Checkpoint
from normsurgery.checkpoint.health import count_nonfinite, is_all_zero
from normsurgery.checkpoint.opening import open_checkpoint
from normsurgery.checkpoint.staging import Staging, check_destination
from normsurgery.checkpoint.tensor import LazyTensor
from normsurgery.checkpoint.writer import (
    FileRecord,
    hash_files,
    planned_bytes,
    write_beside,
    write_weights,
)

__all__ = [
    "Checkpoint",
    "FileRecord",
    "LazyTensor",
    "Staging",
    "check_destination",
    "count_nonfinite",
    "hash_files",
    "is_all_zero",
    "open_checkpoint",
    "planned_bytes",
    "write_beside",
    "write_weights",
]
