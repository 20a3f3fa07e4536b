"""A checkpoint as a lazy, immutable map from tensor names to tensors, and its edits.

Opening reads headers only. An edit returns another Checkpoint and reads nothing; the writer makes
one pass over the disk, however many edits were chained. Knows nothing of what tensors mean.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from normsurgery.checkpoint.shard import Shard
from normsurgery.checkpoint.tensor import LazyTensor
from normsurgery.checkpoint.text import shown
from normsurgery.errors import SurgeryError, UsageError


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint(Mapping[str, LazyTensor]):
    """Tensor names as they are on disk → LazyTensor, in the order of the files.

    directory: where the source lies. config: config.json, keys in order; treat it as read-only.
    model_id: what the user named, never a local path. revision: the commit, where one is known.
    shards: tensor → name of its source file. metadata: `__metadata__` of the first weight file.
    side_files: every other file to carry over, forward slashes. extra_files: added or overriding.
    left_out: files not carried over, as they hold the same weights in another form.
    """

    directory: Path
    config: dict[str, Any]
    model_id: str
    revision: str | None
    shards: Mapping[str, str]
    side_files: tuple[str, ...]
    left_out: tuple[str, ...]
    sources: tuple[Shard, ...]
    tensors: Mapping[str, LazyTensor]
    source_config: bytes
    source_index: bytes | None = None
    extra_files: Mapping[str, bytes] = field(default_factory=dict)

    def __getitem__(self, name: str) -> LazyTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.model_id}: {len(self)} tensors, {self.nbytes:,} bytes>"

    @property
    def metadata(self) -> Mapping[str, str]:
        """`__metadata__` of the first weight file."""
        return self.sources[0].metadata

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The source's weight files."""
        return tuple(shard.path for shard in self.sources)

    def override(self, edits: Mapping[str, LazyTensor]) -> Checkpoint:
        """Other contents for tensors that exist."""
        self._require(edits)
        labelled = {name: tensor.named(name) for name, tensor in edits.items()}
        return replace(self, tensors={**self.tensors, **labelled})

    def rename(self, names: Mapping[str, str]) -> Checkpoint:
        """Other names, old → new, at once: names may be swapped."""
        self._require(names)
        tensors: dict[str, LazyTensor] = {}
        shards: dict[str, str] = {}
        for name, tensor in self.tensors.items():
            new = names.get(name, name)
            if new in tensors:
                raise _internal(f"two tensors would be called {shown(new)}")
            tensors[new], shards[new] = tensor.named(new), self.shards[name]
        return replace(self, tensors=tensors, shards=shards)

    def drop(self, names: Collection[str]) -> Checkpoint:
        """Without these tensors, which exist."""
        self._require(names)
        gone = set(names)
        tensors = {name: tensor for name, tensor in self.tensors.items() if name not in gone}
        shards = {name: file for name, file in self.shards.items() if name not in gone}
        return replace(self, tensors=tensors, shards=shards)

    def add(self, new: Mapping[str, LazyTensor], *, beside: str) -> Checkpoint:
        """With new tensors, which go after `beside` into its file."""
        self._require([beside])
        taken = next((name for name in new if name in self.tensors), None)
        if taken is not None:
            raise _internal(f"{shown(taken)} exists already")
        tensors: dict[str, LazyTensor] = {}
        for name, tensor in self.tensors.items():
            tensors[name] = tensor
            if name == beside:
                tensors.update({added: made.named(added) for added, made in new.items()})
        shards = {**self.shards, **dict.fromkeys(new, self.shards[beside])}
        return replace(self, tensors=tensors, shards=shards)

    def replaced(self, new: Mapping[str, tuple[LazyTensor, str]]) -> Checkpoint:
        """With other tensors altogether: name → (tensor, the tensor here whose file it goes to)."""
        self._require([beside for _, beside in new.values()])
        tensors = {name: tensor.named(name) for name, (tensor, _) in new.items()}
        shards = {name: self.shards[beside] for name, (_, beside) in new.items()}
        return replace(self, tensors=tensors, shards=shards)

    def with_config(self, config: Mapping[str, Any]) -> Checkpoint:
        """With another config.json."""
        return replace(self, config=copy.deepcopy(dict(config)))

    def with_files(self, files: Mapping[str, bytes]) -> Checkpoint:
        """With side files added, or put in place of the source's."""
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
                raise UsageError(
                    f"{shown(name)} is not a file name inside the output", "use a relative name"
                )
        return replace(self, extra_files={**self.extra_files, **files})

    def without_files(self, names: Collection[str]) -> Checkpoint:
        """Without these side files, added ones included."""
        gone = set(names)
        unknown = sorted(gone - set(self.side_files) - set(self.extra_files))
        if unknown:
            raise _internal(f"there is no side file {shown(unknown[0])}")
        side = tuple(name for name in self.side_files if name not in gone)
        extra = {name: data for name, data in self.extra_files.items() if name not in gone}
        return replace(self, side_files=side, extra_files=extra)

    def _require(self, names: Collection[str] | Mapping[str, Any]) -> None:
        missing = next((name for name in names if name not in self.tensors), None)
        if missing is not None:
            raise _internal(f"there is no tensor {shown(missing)}")


def _internal(message: str) -> SurgeryError:
    return SurgeryError(
        f"internal error: {message}", "please report this, with the command and the model"
    )
