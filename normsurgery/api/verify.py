"""`verify`: hold one checkpoint against another, figures and verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery.api.result import Reported
from normsurgery.report.progress import Progress
from normsurgery.version import VERSION

if TYPE_CHECKING:
    from normsurgery.verify import ModelSource, Verification

MAX_LENGTH = 256


@dataclass(frozen=True)
class VerifyResult(Reported):
    """What was compared and found; `passed` is the verdict as a truth value."""

    source: dict[str, Any]
    candidate: dict[str, Any]
    verification: Verification
    seconds: float
    peak_memory_bytes: int

    @property
    def passed(self) -> bool:
        return self.verification.passed

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        return {
            "command": "verify",
            "version": VERSION,
            "source": self.source,
            "candidate": self.candidate,
            "verification": self.verification.to_dict(),
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def verify(
    reference: str | Path,
    candidate: str | Path,
    *,
    data: str | Path | None = None,
    tokens: int = 2048,
    max_length: int | None = None,
    dtype: str | None = None,
    device: str = "auto",
    against_float64: bool = False,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    contract: str = "exact",
    linearity: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> VerifyResult:
    """Compare a candidate with its reference, both saved checkpoints or Hub ids.

    A candidate that breaks its contract gives a result whose verdict is "fail"; nothing is raised
    for that. dtype: what both are run in; None is what the reference is stored in. max_length:
    tokens per row, at most what the model takes; None is 256. linearity: whether the candidate's
    logits must be the sum of its blocks' contributions (a model without a final norm), to 1e-5.
    Raises UsageError where the two cannot be compared: other vocabulary, task or modality.
    """
    from normsurgery.api.document import peak_memory_bytes
    from normsurgery.checkpoint import open_checkpoint
    from normsurgery.verify import ModelSource, VerifyOptions, compare

    started = time.monotonic()
    options = VerifyOptions(
        data=data,
        tokens=tokens,
        max_length=MAX_LENGTH if max_length is None else max_length,
        dtype=dtype,
        device=device,
        against_float64=against_float64,
        contract=contract,
        linearity=linearity,
        seed=seed,
    )
    opened = [open_checkpoint(model, allow_pickle=allow_pickle) for model in (reference, candidate)]
    sources = [
        ModelSource(
            checkpoint.directory, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
        )
        for checkpoint in opened
    ]
    verification = compare(sources[0], sources[1], options, progress=progress)
    documents = [_described(c, s) for c, s in zip(opened, sources, strict=True)]
    return VerifyResult(
        source=documents[0],
        candidate=documents[1],
        verification=verification,
        seconds=round(time.monotonic() - started, 3),
        peak_memory_bytes=peak_memory_bytes(),
    )


def _described(checkpoint: Any, source: ModelSource) -> dict[str, Any]:
    from normsurgery.api.document import source_document
    from normsurgery.verify.sources import class_of

    return source_document(checkpoint, class_of(source).__name__)
