"""Norm paths by name and kind, for what needs no model."""

from __future__ import annotations

from typing import Any, cast

from normsurgery.train.norms.paths import NormPath, PathKind


def paths(blocks: int, *, final: bool = True, inner: bool = False) -> tuple[NormPath, ...]:
    """As a GPT-2 of so many blocks has them, in order of execution."""
    made = []
    for block in range(blocks):
        kinds: tuple[PathKind, ...] = ("qk", "v", "inner", "mlp") if inner else ("qk", "v", "mlp")
        made += [path(f"{kind}{block}", kind, block) for kind in kinds]
    return (*made, path("final", "final")) if final else tuple(made)


def path(name: str, kind: PathKind, block: int | None = None) -> NormPath:
    return NormPath(name=name, site=cast(Any, None), kind=kind, block=block, parts=())
