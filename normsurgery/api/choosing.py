"""Which blocks go: those that were named, or those that the text says are missed least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.resume import Work
from normsurgery.calibrate.scores import iterative_choice, score_windows
from normsurgery.calibrate.windows import Scores
from normsurgery.errors import UsageError
from normsurgery.report.progress import Progress
from normsurgery.surgery.block_lists import Drop

Method = Literal["angular", "influence", "fit", "loss", "last", "taylor"]
# What one pass over the text gives together: shown beside the score that decides.
_TOGETHER: tuple[Method, ...] = ("angular", "influence", "fit")


@dataclass(frozen=True)
class Choice:
    """dropped: blocks of the source, in order. scores: of every window that was looked at."""

    dropped: tuple[int, ...]
    scores: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def needs_text(drop: Drop, method: Method, *, explain: bool) -> bool:
    """Whether choosing the blocks reads text."""
    return explain or (drop.blocks is None and method != "last")


def choose(
    drop: Drop,
    depth: int,
    method: Method,
    engine: Blockwise | None,
    *,
    iterative: bool,
    explain: bool,
    work: Work | None = None,
    progress: Progress | None = None,
) -> Choice:
    """The blocks that go. engine: None where no text is needed.

    explain: compute the scores that one pass gives also where they do not decide.
    """
    if engine is None:
        last = tuple(range(depth - drop.count, depth))
        return Choice(drop.blocks or last)
    methods = tuple(dict.fromkeys([*(_TOGETHER if explain or method in _TOGETHER else ()), method]))
    if drop.blocks is not None:
        scores = score_windows(engine, drop.count, methods, work=work, progress=progress)
        return Choice(drop.blocks, *_shown([scores]))
    if not iterative:
        scores = score_windows(engine, drop.count, methods, work=work, progress=progress)
        return Choice(engine.processes.from_first(scores.best(method)), *_shown([scores]))
    if method == "last":
        raise UsageError(
            "--iterative measures blocks again; last measures none", "--method angular"
        )
    found = iterative_choice(engine, drop.count, method, methods, work=work, progress=progress)
    return Choice(tuple(sorted(found.dropped)), *_shown(found.rounds))


def _shown(rounds: Sequence[Scores]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """All entries, numbered by round where there is more than one, and what was noted."""
    entries = [
        {**({"round": number} if len(rounds) > 1 else {}), **entry}
        for number, scores in enumerate(rounds)
        for entry in scores.to_list()
    ]
    return entries, tuple(dict.fromkeys(note for scores in rounds for note in scores.notes))
