"""How one exact surgery hands its result to the next without a weight file between them.

A surgery is a function of a lazy checkpoint, so the next one can take what this one would write.
What it needs on disk is a directory with config.json and the side files. Inside `handing_over` a
surgery plans and proves itself as ever, but opens what it is given and writes nothing; what it says
of its result (a `Claim`) suffices to verify the last result against the first source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery.checkpoint import Checkpoint, write_beside

if TYPE_CHECKING:
    from torch import Tensor

    from normsurgery.api.writing import Writing

Inputs = Mapping[str, "Tensor"]


class NotFusedError(Exception):
    """Why a step cannot be a part of a pass: it then runs on files, as it would alone."""


@dataclass(frozen=True)
class Claim:
    """What a surgery says of its result, for somebody who verifies several at once.

    operate: the surgery on a checkpoint whose tensors are float64, without any cast. model_class:
    what its source is opened in. outputs: those that keep their values. forms: the ways in which
    the result opens. options: data, device, seed and dtype, as VerifyOptions takes them. verify:
    whether that was asked for. inputs: what the result is given where the source is given these.
    renumbers: whether a block's number may change. alone: why it must be verified by itself.
    beside: more for the papers, measured on (the pass's source, the staged result).
    """

    operate: Callable[[Checkpoint], Checkpoint]
    model_class: type
    outputs: tuple[str, ...]
    forms: Mapping[str, Callable[[Path], type]]
    options: Mapping[str, Any]
    verify: bool
    max_length: int
    contract: str = "exact"
    inputs: Callable[[Inputs], Inputs] | None = None
    renumbers: bool = False
    alone: str = ""
    beside: Callable[[Checkpoint, Path], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Handed:
    """One step of a pass, planned and proved. before, after: lazy; `after` as the next one sees it.

    papers: what surgery.json would say of it. document: what the surgery returned.
    """

    before: Checkpoint
    after: Checkpoint
    claim: Claim
    writing: Writing
    papers: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    document: dict[str, Any] = field(default_factory=dict)


@dataclass
class HandOver:
    """What a surgery finds in place of files: its source, and a place for the small directory."""

    source: Checkpoint
    directory: Path
    offered: Handed | None = None

    def offer(self, before: Checkpoint, after: Checkpoint, claim: Claim, writing: Writing) -> None:
        """Take a result. Raises NotFusedError where it cannot be a part of a pass."""
        if claim.alone:
            raise NotFusedError(claim.alone)
        if claim.contract != "exact":
            raise NotFusedError(f"its contract is {claim.contract}, and not exact")
        self.offered = Handed(before, without_weights(after, self.directory), claim, writing)

    def record(self, papers: dict[str, Any], notes: Sequence[str]) -> None:
        """Keep what surgery.json would say. Raises NotFusedError where no result was offered."""
        if self.offered is None:
            raise NotFusedError("it works on files")
        self.offered = replace(self.offered, papers=papers, notes=tuple(notes))


_OPEN: ContextVar[HandOver | None] = ContextVar("handing over", default=None)


@contextmanager
def handing_over(source: Checkpoint, directory: Path) -> Iterator[HandOver]:
    """While open, a surgery works on `source` and offers its result. directory: is made."""
    found = HandOver(source, directory)
    token = _OPEN.set(found)
    try:
        yield found
    finally:
        _OPEN.reset(token)


def current() -> HandOver | None:
    """The hand-over that a surgery is part of, None where it works on files."""
    return _OPEN.get()


def without_weights(result: Checkpoint, directory: Path) -> Checkpoint:
    """The result as if it had been written to `directory`, which gets all but the weights."""
    directory.mkdir()
    records = write_beside(result, directory)
    (config,) = [record.name for record in records if record.kind == "config"]
    return replace(
        result,
        directory=directory,
        source_config=(directory / config).read_bytes(),
        side_files=tuple(record.name for record in records if record.kind == "side"),
        extra_files={},
        left_out=(),
    )
