"""Which blocks go: those that were named, or those that the text says are missed least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.fit.trial import Trial, proposals
from normsurgery.calibrate.resume import Work
from normsurgery.calibrate.scoring.scores import iterative_choice, score_windows
from normsurgery.calibrate.scoring.windows import Scores
from normsurgery.errors import UsageError
from normsurgery.report.progress import Progress
from normsurgery.surgery.block_lists import Drop

Method = Literal["angular", "influence", "fit", "loss", "last", "taylor", "trial"]
# What one pass over the text gives together: shown beside the score that decides.
_TOGETHER = ("angular", "influence", "fit")

Try = Callable[[Sequence[tuple[int, ...]]], list[Trial]]


@dataclass(frozen=True)
class Choice:
    """dropped: blocks of the source, in order. scores: of everything that was looked at.

    drawn: those of the scores that make a picture, a window after the other.
    """

    dropped: tuple[int, ...]
    scores: tuple[dict[str, Any], ...] = ()
    drawn: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chooser:
    """engine: over the calibration text. work: where unfinished passes are kept."""

    engine: Blockwise
    work: Work
    progress: Progress

    def windows(self, drop: Drop, method: Method) -> Choice:
        """The best run of blocks by a score, or the scores alone where the blocks are named."""
        scores = self.scores(self.engine, drop.count, method)
        best = drop.blocks or self.engine.processes.from_first(scores.best(method))
        return _choice(best, [scores])

    def one_by_one(self, drop: Drop, method: Method) -> Choice:
        """Drop the best block, measure again, drop the next."""
        found = iterative_choice(
            self.engine, drop.count, method, _shown(method), work=self.work, progress=self.progress
        )
        return _choice(tuple(sorted(found.dropped)), found.rounds)

    def by_trial(self, drop: Drop, sample: Blockwise, fit: Try) -> Choice:
        """Fit a few promising cuts on a sample of the text, and take the one that loses least.

        sample: the engine over it. Scores cannot tell: blocks that stand apart are replaced better
        than a run of them, and the best cut after a fit is not the best one before it.
        """
        windows = self.scores(self.engine, drop.count, "fit")
        singles = score_windows(
            sample, 1, ("loss",), work=self.work, progress=self.progress, name="single"
        )
        runs = [windows.best("angular"), *([windows.best("fit")] if _has_fit(windows) else [])]
        losses = [window.scores["loss"] for window in singles.windows]
        cuts = self.engine.processes.from_first(proposals(losses, drop.count, runs))
        trials = fit(cuts)
        best = self.engine.processes.from_first(trials[0].dropped)
        choice = _choice(best, [windows])
        tried = (*choice.scores, *singles.to_list(), *(trial.to_dict() for trial in trials))
        return Choice(best, tried, choice.drawn, choice.notes)

    def scores(self, engine: Blockwise, size: int, method: Method) -> Scores:
        """Of all windows of that size, with what comes for nothing beside."""
        return score_windows(engine, size, _shown(method), work=self.work, progress=self.progress)


def needs_text(drop: Drop, method: Method, *, explain: bool) -> bool:
    """Whether choosing the blocks reads text."""
    return explain or (drop.blocks is None and method != "last")


def check_choice(drop: Drop, method: Method, *, iterative: bool, fits: bool) -> None:
    """Raise UsageError for a way of choosing that makes no sense."""
    if drop.blocks is None and method == "trial" and not fits:
        raise UsageError(
            "a trial compares what is left after a fit, and nothing is to be fitted",
            "--substitute merge --heal sequential, or another --method",
        )
    if iterative and method in ("last", "trial"):
        raise UsageError(
            f"{method} measures no single block that --iterative could drop next",
            "--method angular",
        )


def _shown(method: str) -> tuple[str, ...]:
    """The score that decides, and those that the same pass gives."""
    together = method == "last" or method in _TOGETHER
    return tuple(dict.fromkeys([*_TOGETHER, method] if together else [method]))


def _has_fit(scores: Scores) -> bool:
    return any(window.scores.get("fit") is not None for window in scores.windows)


def _choice(dropped: tuple[int, ...], rounds: Sequence[Scores]) -> Choice:
    """Entries are numbered by round where there is more than one; the last round is drawn."""
    numbered = [
        tuple({**({"round": n} if len(rounds) > 1 else {}), **entry} for entry in scores.to_list())
        for n, scores in enumerate(rounds)
    ]
    notes = dict.fromkeys(note for scores in rounds for note in scores.notes)
    scores = tuple(entry for entries in numbered for entry in entries)
    return Choice(dropped, scores, numbered[-1], tuple(notes))
