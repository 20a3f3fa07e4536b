"""`bench`: how fast models are beside each other, and how much memory they take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normsurgery.api.result import Result
from normsurgery.errors import UsageError
from normsurgery.report.progress import Progress
from normsurgery.version import VERSION


@dataclass(frozen=True)
class BenchResult(Result):
    """What was measured, as the document that `--json` prints."""


def bench(
    *models: str | Path,
    batch: Sequence[int] = (1,),
    length: Sequence[int] = (128,),
    new_tokens: int = 32,
    repeats: int = 10,
    compile: str = "none",
    dtype: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    memory: bool = True,
    data: str | Path | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure checkpoints beside each other; the first is what the others are compared with.

    Every model runs in turn (A B, B A, …), `repeats` rounds after two that are not counted, for
    every batch × length. A text model's prefill is the time to the first token of greedy
    generation, its decode that of the `new_tokens` − 1 after it; any other model's forward pass is
    one measure. compile: "eager+compiled" measures both. dtype: what all are run in; None is what
    the first is stored in. threads: None leaves torch's own number. memory: the peak of each, on
    the largest cell, in a fresh process. data: images, .wav, .npy or .npz for models that read
    these; None makes inputs up.

    Raises UsageError where the models differ in modality or do not read rows as long, and
    ResourceError where they do not fit into memory beside each other.
    """
    import tempfile

    from normsurgery.api.document import peak_memory_bytes, source_document
    from normsurgery.bench.session import Grid, Session, check_grid
    from normsurgery.checkpoint import open_checkpoint
    from normsurgery.report.progress import Silent
    from normsurgery.verify.reference import chosen_device
    from normsurgery.verify.sources import ModelSource, class_of, dtype_named, stored_dtype

    if not models:
        raise UsageError("no model was given", "normsurgery bench MODEL [MODEL …]")
    started = time.monotonic()
    grid = Grid(
        tuple(batch), tuple(length), new_tokens, repeats, compile=compile, memory=memory,
        threads=threads, seed=seed, data=None if data is None else Path(data),
    )  # fmt: skip
    check_grid(grid)
    opened = [open_checkpoint(model, allow_pickle=allow_pickle) for model in models]
    sources = [
        ModelSource(c.directory, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
        for c in opened
    ]
    shared = dtype_named(dtype) if dtype else stored_dtype(opened[0].directory)
    session = Session(grid, shared, chosen_device(device), progress or Silent())
    with tempfile.TemporaryDirectory(prefix="normsurgery-bench-") as scratch:
        found = session.run(sources, Path(scratch))
    described = [
        {**source_document(c, class_of(s).__name__), **figures}
        for c, s, figures in zip(opened, sources, found.pop("figures"), strict=True)
    ]
    return BenchResult(
        {
            "command": "bench",
            "version": VERSION,
            "models": described,
            **found,
            "seconds": round(time.monotonic() - started, 3),
            "peak_memory_bytes": peak_memory_bytes(),
        }
    )
