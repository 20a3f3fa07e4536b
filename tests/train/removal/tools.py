"""Norm paths by name and kind, and short runs of tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from normsurgery.anatomy.norm_paths import NormPath, PathKind
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.train.removal.options import RemovalOptions
from normsurgery.train.removal.run import Removed, remove_norms_by_training
from normsurgery.train.removal.schedule import Schedule
from tests.train.tools import rows, subject


def paths(blocks: int, *, final: bool = True, inner: bool = False) -> tuple[NormPath, ...]:
    """As a GPT-2 of so many blocks has them, in order of execution."""
    made = []
    for block in range(blocks):
        kinds: tuple[PathKind, ...] = ("qk", "v", "inner", "mlp") if inner else ("qk", "v", "mlp")
        made += [path(f"{kind}{block}", kind, block) for kind in kinds]
    return (*made, path("final", "final")) if final else tuple(made)


def path(name: str, kind: PathKind, block: int | None = None) -> NormPath:
    return NormPath(name=name, site=cast(Any, None), kind=kind, block=block, parts=())


def quick(steps: int = 12, **changes: Any) -> Schedule:
    """A schedule that is through with a model of three blocks after half of its steps."""
    values: dict[str, Any] = {
        "name": "quick", "steps": steps, "horizon": steps, "tokens_per_step": None, "start": 2,
        "gap_mlp": 0.4, "gap_qk": 0.4, "gap_v": 0.4, "gap_final": 1, "gap_end": 1, "gap_first": 0,
        "learning_rate": 1e-3, "min_learning_rate": 1e-4, "warmup": 1, **changes,
    }  # fmt: skip
    return Schedule(**values)


def options(**changes: Any) -> RemovalOptions:
    values = {"batch_size": 2, "device": "cpu", "save_every": 3, "calibration_rows": 4, **changes}
    return RemovalOptions(**values)


def run(
    directory: Path, work: Path, *, schedule: Schedule | None = None, teacher: Path | None = None,
    chosen: RemovalOptions | None = None, text: TextRows | None = None, **others: Any,
) -> Removed:  # fmt: skip
    """Remove the norms of a tiny model on random rows."""
    return remove_norms_by_training(
        subject(directory), None if teacher is None else subject(teacher), text or rows(),
        schedule or quick(), chosen or options(), work, **others,
    )  # fmt: skip
