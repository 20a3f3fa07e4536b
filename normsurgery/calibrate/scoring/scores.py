"""Which blocks matter least: every score of every window of blocks, from text.

angular: arccos(cos(x_i, x_{i+n}))/π, mean over tokens (arXiv 2403.17887).
influence: Σ over the window of 1 − E cos(x_l, x_{l+1}) (ShortGPT, arXiv 2403.03853).
fit: the share of the stream after the window that the best linear map of the MLP output before it
leaves unexplained (ours; that map is ReplaceMe's, arXiv 2505.02819).
loss: cross-entropy without the window. last: how many blocks follow it (arXiv 2411.15558).
taylor: Σ |g · w| (arXiv 2305.11627).
Of each, less means that the window is missed less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from normsurgery.anatomy.block_writers import block_writers
from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.resume import Work, WorkPart
from normsurgery.calibrate.scoring.leave_out import leave_out_losses
from normsurgery.calibrate.scoring.sample import Sample, last_tokens, scored_sample
from normsurgery.calibrate.scoring.seams import Seam, read_seams
from normsurgery.calibrate.scoring.similarity import Similarity
from normsurgery.calibrate.scoring.taylor import taylor_scores, window_sums
from normsurgery.calibrate.scoring.windows import METHODS, Scores, table
from normsurgery.calibrate.tokens import check_tokens
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.nearest import choices_hint
from normsurgery.report.progress import Progress

_SIMILARITY = ("angular", "influence", "fit")
_PER_REGRESSOR = 16  # sampled tokens; their number hardly moves the scores beyond that
_AT_LEAST = 8192


@dataclass(frozen=True)
class ScoreOptions:
    """last_token: `angular` looks at the last token of each row only, as its paper does.

    sample: tokens that `angular` and `fit` look at; None: 16 per channel, at least 8192.
    ridge: of the fit, relative to the mean of the Gram matrix's diagonal.
    """

    last_token: bool = False
    sample: int | None = None
    ridge: float = 1e-4


def score_windows(
    engine: Blockwise,
    size: int,
    methods: Collection[str] = _SIMILARITY,
    *,
    options: ScoreOptions | None = None,
    work: Work | None = None,
    progress: Progress | None = None,
    name: str = "windows",
) -> Scores:
    """The scores of all windows of `size` blocks in the engine's order.

    work: where unfinished passes are kept; name: of this one there.
    Raises UsageError for an unknown method, an impossible size, or too few tokens for the fit.
    """
    _check(engine, size, methods)
    options = options or ScoreOptions()
    columns: dict[str, Sequence[float | None]] = {}
    notes: list[str] = []
    sampled, whole = 0, None
    if set(methods) & set(_SIMILARITY):
        seams, notes = _seams(engine) if "fit" in methods else ([], [])
        found = _similarity(engine, size, methods, options, seams)
        part = _part(work, name, engine, size, sorted(found.methods), options)
        sampled = found.fitted.tokens
        if any(seams):
            notes += [note for note in [check_tokens(sampled, engine.width)] if note]
        found.run(part, progress)
        for method in set(methods) & set(_SIMILARITY):
            columns[method] = getattr(found, method)
    if "loss" in methods:
        part = _part(work, f"{name}-loss", engine, size)
        columns["loss"], whole = leave_out_losses(engine, size, part=part, progress=progress)
    if "taylor" in methods:
        columns["taylor"] = window_sums(taylor_scores(engine, progress=progress), size)
    if "last" in methods:
        columns["last"] = [float(n) for n in range(engine.depth - size, -1, -1)]
    ordered = {method: columns[method] for method in METHODS if method in columns}
    return table(
        engine.order, size, ordered,
        tokens=engine.scored_tokens, sampled=sampled, loss=whole, notes=tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class IterativeChoice:
    """dropped: source blocks in the order in which they were dropped. rounds: scores of each."""

    dropped: tuple[int, ...]
    rounds: tuple[Scores, ...]


def iterative_choice(
    engine: Blockwise,
    count: int,
    method: str,
    methods: Collection[str] | None = None,
    *,
    options: ScoreOptions | None = None,
    work: Work | None = None,
    progress: Progress | None = None,
) -> IterativeChoice:
    """Drop the block with the best score, measure what is left again, drop the next.

    method: that decides. methods: all that are computed in each round (None: only that one).
    """
    wanted = dict.fromkeys([method, *(methods or ())])
    dropped: list[int] = []
    rounds: list[Scores] = []
    for number in range(count):
        left = engine.reordered(_without(engine.order, dropped))
        scores = score_windows(
            left, 1, tuple(wanted), options=options, work=work, progress=progress,
            name=f"round-{number}",
        )  # fmt: skip
        rounds.append(scores)
        dropped += engine.processes.from_first(scores.best(method))
    return IterativeChoice(tuple(dropped), tuple(rounds))


def _without(order: Sequence[int], dropped: Collection[int]) -> list[int]:
    return [block for block in order if block not in dropped]


def _check(engine: Blockwise, size: int, methods: Collection[str]) -> None:
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"unknown method {method!r}", choices_hint(method, METHODS))
    if not 0 < size < engine.depth:
        raise UsageError(
            f"{size} of {engine.depth} blocks cannot be dropped",
            f"between 1 and {engine.depth - 1} can",
        )


def _part(work: Work | None, name: str, engine: Blockwise, *parameters: object) -> WorkPart | None:
    """The place of a pass, named after all that tells it from others on the same text."""
    if work is None:
        return None
    shapes = [tuple(batch.ids.shape) for batch in engine.all_batches]
    known = repr((engine.order, str(engine.dtype), shapes, *parameters))
    return work.part(f"{name}-{hashlib.sha256(known.encode()).hexdigest()[:16]}")


def _similarity(
    engine: Blockwise,
    size: int,
    methods: Collection[str],
    options: ScoreOptions,
    seams: Sequence[Seam | None],
) -> Similarity:
    wanted = options.sample or max(_AT_LEAST, _PER_REGRESSOR * engine.width)
    fitted = scored_sample(engine.all_batches, engine.processes, wanted)
    angles: Sample = fitted
    if options.last_token:
        angles = last_tokens(engine.all_batches, engine.processes)
    if not any(seams):
        methods = [method for method in methods if method != "fit"]
    return Similarity(engine, size, methods, angles, fitted, seams, options.ridge)


def _seams(engine: Blockwise) -> tuple[list[Seam | None], list[str]]:
    """The place of each block's MLP output, and a note where there is none."""
    blocks = engine.stack.blocks
    try:
        writers = block_writers(engine.examination, engine.stack)
        seams = read_seams(engine.examination, blocks, engine.forms, writers)
    except UnsupportedModelError as error:
        return [None] * len(blocks), [f"no fit: {error.message}"]
    missing = [name for name, seam in zip(blocks, seams, strict=True) if seam is None]
    if missing:
        return seams, [f"no fit behind {', '.join(missing)}: no module returns what its MLP adds"]
    return seams, []
