"""`heal --train`: a checkpoint that was cut or rewritten is trained against its original."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from normsurgery.api.asked import recorded
from normsurgery.api.document import peak_memory_bytes
from normsurgery.api.healing import Job, described, healed, model_source, planned
from normsurgery.api.result import Result
from normsurgery.api.writing import Writing
from normsurgery.calibrate.text.sources import row_length
from normsurgery.checkpoint import check_destination, open_checkpoint
from normsurgery.graft.doors import one_door
from normsurgery.report.progress import Progress, Silent
from normsurgery.surgery.cast import cast, stored_dtype
from normsurgery.surgery.receipt import Receipt
from normsurgery.train.options import LossWeights, Method, TrainOptions
from normsurgery.train.run import Subject, pairing
from normsurgery.verify import check_comparable

LONGEST_ROW = 512  # tokens: two models, activations and gradients are in memory at once


class HealResult(Result):
    """What `heal` did (or, on a dry run, would do), as a document."""


@recorded
def heal(
    model: str | Path,
    output: str | Path,
    *,
    teacher: str | Path,
    train: Method = "lora",
    data: str | None = None,
    text_column: str = "text",
    tokens: int = 500_000,
    max_length: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    lr: float | None = None,
    batch_size: int = 8,
    gradient_accumulation: int = 1,
    gradient_checkpointing: bool = False,
    bf16: bool | None = None,
    ce: float = 1.0,
    kl: float = 1.0,
    hidden: float = 0.0,
    temperature: float = 1.0,
    lora_rank: int = 16,
    save_every: int | None = None,
    resume: bool = False,
    dtype: str | None = None,
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
    verify: bool = True,
    keep_failed: bool = False,
    allow_nonfinite: bool = False,
    device: str = "auto",
    seed: int = 0,
    dry_run: bool = False,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    plots: bool = False,
    progress: Progress | None = None,
) -> HealResult:
    """Train a model that was cut, converted or rewritten towards the original it was made from.

    teacher: the original. train: adapters on every linear of the blocks, merged before writing
    ("lora"); head, final norm and the last three blocks ("head+last3"); or everything ("full").
    ce, kl, hidden: weights of cross-entropy, KL to the teacher at a temperature, and the error of
    the stream at kept blocks. max_length: tokens a row; what the model reads, at most 512. Weights
    train in float32 and are stored in the model's own names, shards and dtype. plots: draw the
    training and the losses into output/plots, and show them in the card. An interrupted run goes
    on with resume=True, to the same weights.
    In several processes (`accelerate launch`) only the main one writes; the others' documents have
    no losses and no verification.
    Sources: arXiv 2403.17887, 2411.15558.
    Raises UsageError for options, text or models that do not fit together, UnsupportedModelError
    where the model does not predict text, SurgeryError where the loss is not finite (nothing is
    written), VerificationError where the saved files are not the model that trained.
    """
    started = time.monotonic()
    options = TrainOptions(
        train, steps, epochs, lr, batch_size, gradient_accumulation, bf16,
        LossWeights(ce, kl, hidden, temperature), lora_rank,
        gradient_checkpointing=gradient_checkpointing, save_every=save_every, seed=seed,
        device=device,
    )  # fmt: skip
    writing = Writing(
        Path(output), overwrite, max_shard_size, keep_failed, allow_nonfinite, allow_pickle, seed,
        progress or Silent(), plots,
    )  # fmt: skip
    asked = {"data": data, "text_column": text_column, "tokens": tokens, "max_length": max_length}
    job = _job(
        (model, teacher), writing, options, asked, dtype=dtype, verify=verify,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    document = described(job)
    document |= planned(job) if dry_run else healed(job, document, resume=resume)
    document["seconds"] = round(time.monotonic() - started, 3)
    document["peak_memory_bytes"] = peak_memory_bytes()
    return HealResult(document)


def _job(
    models: tuple[str | Path, str | Path],
    writing: Writing,
    options: TrainOptions,
    data: dict[str, Any],
    *,
    dtype: str | None,
    verify: bool,
    trust_remote_code: bool,
) -> Job:
    """Open and examine both models; everything that can be refused early is."""
    opened = writing.open_source(models[0])
    original = open_checkpoint(models[1], allow_pickle=writing.allow_pickle)
    check_destination(writing.output, overwrite=writing.overwrite, source=original.directory)
    student, teacher = (
        Subject.of(one, trust_remote_code=trust_remote_code, allow_pickle=writing.allow_pickle)
        for one in (opened, original)
    )
    if data["max_length"] is None:
        usual = row_length(opened.directory, None, trust_remote_code=trust_remote_code)
        data = {**data, "max_length": min(LONGEST_ROW, usual)}
    check_comparable(*(model_source(one) for one in (teacher, student)))
    pairing(student, teacher, options)
    source, notes = one_door(opened, student.examination.model_class)
    receipts: tuple[Receipt, ...] = ()
    if dtype is not None:
        source, receipt = cast(source, stored_dtype(dtype))
        receipts = (receipt,)
    return Job(
        student, teacher, options, writing, source, receipts, notes, data, verify,
        trust_remote_code,
    )  # fmt: skip
