"""What leaving each window out costs in cross-entropy: one forward per window, one load per block.

All shortened models advance side by side, so that a block is loaded once for all of them, and each
begins with the stream that the whole model had where its window starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.resume import WorkPart
from normsurgery.calibrate.states import HiddenStates
from normsurgery.report.progress import Advance, Progress, Silent
from normsurgery.verify.load import available_memory_bytes

WHOLE = -1  # the key of the model with nothing left out


def leave_out_losses(
    engine: Blockwise,
    size: int,
    *,
    part: WorkPart | None = None,
    progress: Progress | None = None,
) -> tuple[list[float], float]:
    """(loss without each window, by start; loss of the whole), in nats per scored token.

    Holds one stream per window that has begun: what is above the engine's limit goes to its
    directory.
    """
    windows = engine.depth - size + 1
    passes = sum(engine.depth - start - size for start in range(windows)) + engine.depth
    with (progress or Silent()).task("losses", passes * engine.tokens, "tokens") as advance:
        streams = _all_streams(engine, size, part, advance)
        losses = {}
        for key in [*range(windows), WHOLE]:
            losses[key] = mean_loss(engine, streams[key])
            streams.pop(key).close()
    return [losses[start] for start in range(windows)], losses[WHOLE]


def mean_loss(engine: Blockwise, states: HiddenStates) -> float:
    """Cross-entropy in nats per scored token of all processes."""
    own = sum((losses.sum() for losses in engine.token_losses(states)), torch.zeros(()).double())
    return float(engine.processes.sum(own)) / engine.scored_tokens


def _all_streams(
    engine: Blockwise, size: int, part: WorkPart | None, advance: Advance
) -> dict[int, HiddenStates]:
    """Key → the stream after the last block that key runs."""
    windows = engine.depth - size + 1
    limit = engine.memory_limit
    limit = available_memory_bytes() // 2 if limit is None else limit
    whole = engine.embedded("whole", limit // (windows + 2))
    found = part.load() if part is not None else None
    begun, state = found or (0, {})
    streams = _restored(whole, state, engine)
    for place in range(begun, engine.depth):
        if place < windows:
            streams[place] = streams[WHOLE].copy(f"without.{place}.{engine.processes.rank}")
        running = [key for key in streams if key == WHOLE or key + size <= place]
        with engine.loaded(engine.order[place]) as module:
            for key in running:
                engine.through(module, engine.order[place], streams[key])
                advance(engine.tokens)
        if part is not None:
            part.save(place + 1, {str(key): list(each(own)) for key, own in streams.items()})
    return streams


def each(states: HiddenStates) -> Iterator[torch.Tensor]:
    """The stream of every batch, in order."""
    return (states[batch] for batch in range(len(states)))


def _restored(
    whole: HiddenStates, state: dict[str, Any], engine: Blockwise
) -> dict[int, HiddenStates]:
    streams = {WHOLE: whole}
    for key, batches in state.items():
        if int(key) != WHOLE:
            streams[int(key)] = whole.copy(f"without.{key}.{engine.processes.rank}")
        for batch, value in enumerate(batches):
            streams[int(key)][batch] = value
    return streams
