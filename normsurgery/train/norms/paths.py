"""Paths: what of a norm site is removed at one time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from normsurgery.anatomy.model import NormSite, Reader

PathKind = Literal["mlp", "qk", "v", "final", "inner"]


@dataclass(frozen=True)
class ReaderPart:
    """A reader on a path. channels: output channels of a fused reader; None: all."""

    reader: Reader
    channels: tuple[int, ...] | None


@dataclass(frozen=True)
class NormPath:
    """parts: readers on this path; () where the norm stays in its place as an affine map."""

    name: str
    site: NormSite
    kind: PathKind
    block: int | None
    parts: tuple[ReaderPart, ...]
