"""`eval`: two models on tasks and on text, side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery.api.result import Result
from normsurgery.errors import UsageError
from normsurgery.report.progress import Progress, Silent
from normsurgery.version import VERSION

if TYPE_CHECKING:
    import torch

    from normsurgery.bench.harness import Harness
    from normsurgery.calibrate.text.rows import TextRows
    from normsurgery.verify import ModelSource


@dataclass(frozen=True)
class EvalResult(Result):
    """What both models reached, as the document that `--json` prints."""


@dataclass(frozen=True)
class _Job:
    """What each of the two is asked: rows of text, tasks, or both."""

    rows: TextRows | None
    harness: Harness | None
    dtype: torch.dtype
    device: torch.device
    scratch: Path


def eval(
    reference: str | Path,
    candidate: str | Path,
    *,
    tasks: Sequence[str] = (),
    data: str | None = None,
    text_column: str = "text",
    tokens: int = 65_536,
    max_length: int | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 1,
    chat_template: bool = False,
    include_path: str | Path | None = None,
    dtype: str | None = None,
    device: str = "auto",
    seed: int = 0,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> EvalResult:
    """Evaluate a model and what was made of it, with differences and their standard errors.

    tasks: of lm-evaluation-harness (`normsurgery[eval]`), generation tasks too; num_fewshot, limit
    (samples a task), batch_size, chat_template and include_path (tasks of one's own) as it has
    them. data: perplexity on this text, which needs no harness; without tasks, None is the bundled
    prose. dtype: what both run in; None is what the reference is stored in.

    Both run on the same samples and tokens, one model in memory at a time. Raises UsageError where
    the two cannot be compared, a task is unknown, or the harness is not installed.
    """
    import tempfile

    from normsurgery.api.document import peak_memory_bytes, source_document
    from normsurgery.bench.harness import Harness, TaskRequest
    from normsurgery.calibrate.text.sources import load_rows
    from normsurgery.checkpoint import open_checkpoint
    from normsurgery.verify.reference import chosen_device
    from normsurgery.verify.sources import (
        ModelSource,
        check_comparable,
        class_of,
        dtype_name,
        dtype_named,
        stored_dtype,
    )

    started = time.monotonic()
    request = TaskRequest(
        tuple(tasks), num_fewshot, limit, batch_size, chat_template,
        None if include_path is None else Path(include_path), seed,
    )  # fmt: skip
    harness = Harness(request) if tasks else None
    opened = [open_checkpoint(model, allow_pickle=allow_pickle) for model in (reference, candidate)]
    sources = [
        ModelSource(c.directory, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
        for c in opened
    ]
    check_comparable(sources[0], sources[1])
    rows = None
    if data is not None or not tasks:
        rows = load_rows(
            sources[0].directory, data=data, text_column=text_column, tokens=tokens,
            max_length=max_length, seed=seed, trust_remote_code=trust_remote_code,
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="normsurgery-eval-") as scratch:
        job = _Job(
            rows, harness,
            dtype_named(dtype) if dtype else stored_dtype(sources[0].directory),
            chosen_device(device), Path(scratch),
        )  # fmt: skip
        found = _both(sources, job, progress or Silent())
    described = [
        source_document(c, class_of(s).__name__) for c, s in zip(opened, sources, strict=True)
    ]
    return EvalResult(
        {
            "command": "eval",
            "version": VERSION,
            "source": described[0],
            "candidate": described[1],
            **found,
            "settings": {
                "dtype": dtype_name(job.dtype),
                "device": str(job.device),
                "limit": limit,
                "seed": seed,
                "lm_eval": None if harness is None else harness.version,
            },
            "seconds": round(time.monotonic() - started, 3),
            "peak_memory_bytes": peak_memory_bytes(),
        }
    )


def _both(sources: Sequence[ModelSource], job: _Job, progress: Progress) -> dict[str, Any]:
    """The document's `perplexity` and `tasks`, each None where it was not asked for."""
    from normsurgery.bench.perplexity import perplexity_figures
    from normsurgery.bench.tasks import compare_tasks

    with progress.task("evaluate", len(sources), "steps") as advance:
        found = []
        for source in sources:
            found.append(_one(source, sources[0], job))
            advance(1)
    perplexity = None
    if job.rows is not None:
        perplexity = perplexity_figures(job.rows, found[0]["losses"], found[1]["losses"])
    tasks = compare_tasks(*(one["results"] for one in found)) if job.harness else None
    return {
        "perplexity": perplexity,
        "tasks": tasks,
        "notes": [note for one in found for note in one["notes"]],
    }


def _one(source: ModelSource, reference: ModelSource, job: _Job) -> dict[str, Any]:
    """One model's losses [tokens] and results; read through the reference's tokenizer."""
    from normsurgery.calibrate.text.tokenizer import needed_tokenizer
    from normsurgery.verify.load import load_model
    from normsurgery.verify.losses import model_losses

    found: dict[str, Any] = {"notes": []}
    with load_model(source, dtype=job.dtype, device=job.device, scratch=job.scratch) as loaded:
        if not loaded.report.clean:
            found["notes"].append(f"{source.directory.name}: {loaded.report.sentence()}")
        _check_writes(loaded.model, source)
        if job.rows is not None:
            found["losses"] = model_losses(loaded.model, job.rows, device=job.device)
        if job.harness is not None:
            tokenizer = needed_tokenizer(
                reference.directory, trust_remote_code=reference.trust_remote_code
            )
            found["results"] = job.harness.run(loaded.model, tokenizer)
    return found


def _check_writes(model: Any, source: ModelSource) -> None:
    """UsageError for a model that predicts no next token."""
    from normsurgery.verify.sources import tasks_of

    if not {"CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM"} & tasks_of(type(model)) and not (
        model.can_generate()
    ):
        raise UsageError(
            f"{source.directory.name} is a {type(model).__name__}, which writes no text",
            "eval is for language models; `verify` compares any two",
        )
