"""One weight file of a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from normsurgery.checkpoint.safetensors_file import SafetensorsFile
from normsurgery.checkpoint.tensor import LazyTensor


@dataclass(frozen=True)
class Shard:
    """One weight file: the name it has in the source, its tensors in file order, its metadata.

    header: of a safetensors file; None where the tensors came out of a pickle.
    """

    name: str
    path: Path
    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, str]
    header: SafetensorsFile | None = None
