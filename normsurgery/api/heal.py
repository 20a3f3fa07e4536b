"""`heal --train`: a checkpoint that was cut or rewritten is trained against its original."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normsurgery.anatomy.twin import meta_model
from normsurgery.api.document import peak_memory_bytes, source_document
from normsurgery.api.writing import Writing
from normsurgery.checkpoint import Checkpoint, check_destination, open_checkpoint
from normsurgery.graft.attach import main_auto_class
from normsurgery.graft.classes import auto_classes
from normsurgery.graft.load import load_graft_class
from normsurgery.report.progress import Progress, Silent
from normsurgery.surgery.cast import cast, stored_dtype
from normsurgery.surgery.receipt import Receipt
from normsurgery.surgery.set_parameters import set_parameters
from normsurgery.train.domains import Domains, load_domains
from normsurgery.train.doors import one_door
from normsurgery.train.options import LossWeights, Method, TrainOptions
from normsurgery.train.run import Subject, Trained, choose, is_main_process, pairing, train
from normsurgery.train.saved import saved_check
from normsurgery.train.trainable import trained_count
from normsurgery.train.work import begin_run, check_run, end_run, last_checkpoint, work_directory
from normsurgery.verify import ModelSource, VerifyOptions, judge, run_reference
from normsurgery.verify.losses import loss_table
from normsurgery.version import VERSION

CONTRACT = "trained"
CHECK_ROWS = 2


@dataclass(frozen=True)
class HealResult:
    """What `heal` did (or, on a dry run, would do), as a document."""

    document: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        return self.document


@dataclass(frozen=True)
class _Job:
    """The parts that a run is made of. result_source: the checkpoint that gets the new values."""

    student: Subject
    teacher: Subject
    options: TrainOptions
    writing: Writing
    result_source: Checkpoint
    receipts: tuple[Receipt, ...]
    notes: tuple[str, ...]
    data: dict[str, Any]
    verify: bool

    @property
    def model_class(self) -> type:
        return self.student.examination.model_class

    @property
    def form(self) -> str:
        return "stock" if self.model_class.__module__.startswith("transformers.") else "graft"


def heal(
    model: str | Path,
    output: str | Path,
    *,
    teacher: str | Path,
    train: Method = "lora",
    data: str | None = None,
    text_column: str = "text",
    tokens: int = 500_000,
    max_length: int | None = 512,
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
    progress: Progress | None = None,
) -> HealResult:
    """Train a model that was cut, converted or rewritten towards the original it was made from.

    teacher: the original. train: adapters on every linear of the blocks, merged before writing
    ("lora"); head, final norm and the last three blocks ("head+last3"); or everything ("full").
    ce, kl, hidden: weights of cross-entropy, KL to the teacher at a temperature, and the error of
    the stream at kept blocks. Weights train in float32 and are stored in the model's own names,
    shards and dtype. An interrupted run goes on with resume=True, to the same weights.
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
        progress or Silent(),
    )  # fmt: skip
    asked = {"data": data, "text_column": text_column, "tokens": tokens, "max_length": max_length}
    job = _job(
        (model, teacher), writing, options, asked, dtype=dtype, verify=verify,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    document = _document(job)
    if dry_run:
        document |= _planned(job)
    else:
        document |= _run(job, document, resume=resume, trust_remote_code=trust_remote_code)
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
) -> _Job:
    """Open and examine both models; everything that can be refused early is."""
    opened = writing.open_source(models[0])
    original = open_checkpoint(models[1], allow_pickle=writing.allow_pickle)
    check_destination(writing.output, overwrite=writing.overwrite, source=original.directory)
    student, teacher = (
        Subject.of(one, trust_remote_code=trust_remote_code, allow_pickle=writing.allow_pickle)
        for one in (opened, original)
    )
    pairing(student, teacher, options)
    source, notes = one_door(opened, student.examination.model_class)
    receipts: tuple[Receipt, ...] = ()
    if dtype is not None:
        source, receipt = cast(source, stored_dtype(dtype))
        receipts = (receipt,)
    return _Job(
        student, teacher, options, writing, source, receipts, notes, data, verify
    )  # fmt: skip


def _document(job: _Job) -> dict[str, Any]:
    student = job.student
    architecture = job.model_class.__name__
    classes = auto_classes(student.examination.config, job.model_class)
    return {
        "command": "heal",
        "version": VERSION,
        "source": source_document(student.checkpoint, architecture),
        "teacher": source_document(
            job.teacher.checkpoint, job.teacher.examination.model_class.__name__
        ),
        "output": None,
        "target": {
            "form": job.form,
            "architecture": architecture,
            "auto_class": main_auto_class(classes, architecture),
            "auto_classes": list(classes),
            "engines": ["transformers"],
            "why": "the class that was trained",
            "alternatives": [],
        },
        "receipts": [receipt.to_dict() for receipt in job.receipts],
        "notes": list(job.notes),
        "verification": {"verdict": "skipped", "contract": CONTRACT},
    }


def _planned(job: _Job) -> dict[str, Any]:
    """What a dry run adds: no weight is read and no text."""
    examination = job.student.examination
    model = meta_model(examination.model_class, examination.config)
    chosen, changed, notes = choose(model, examination, job.options)
    result, receipt = _write_into(job, {}, changed, notes)
    receipts = [*job.receipts, receipt]
    source = job.student.checkpoint
    return {
        "training": {
            "method": job.options.method,
            "steps": job.options.steps,
            "tokens": None,
            "trainable_parameters": trained_count(chosen),
            "loss": [],
        },
        "receipts": [one.to_dict() for one in receipts],
        "plan": job.writing.plan(source, result, receipts, CONTRACT),
    }


def _run(
    job: _Job, document: dict[str, Any], *, resume: bool, trust_remote_code: bool
) -> dict[str, Any]:
    """Train, write, verify and publish; what this adds to the document."""
    source = job.student.checkpoint
    domains = load_domains(
        source.directory, seed=job.options.seed, trust_remote_code=trust_remote_code, **job.data
    )
    work = work_directory(job.writing.output)
    run = _identity(job, domains)
    check_run(work, run, resume=resume, overwrite=job.writing.overwrite)
    if is_main_process():
        begin_run(work, run, resume=resume)
    trained = train_model(job, domains, work, resume=resume)
    result, receipt = _write_into(
        job, trained.state, trained.changed, trained.notes, trained
    )
    added: dict[str, Any] = {
        "training": _training_document(job.options, trained, domains),
        "receipts": [one.to_dict() for one in (*job.receipts, receipt)],
    }
    if not trained.main:
        return added
    papers = {**document, **added, "recipe": _recipe(job)}
    added |= job.writing.write(
        source, result, papers, lambda staged: _measured(job, papers, trained, domains, result,
                                                         staged),
        notes=[*job.notes, *trained.notes],
    )  # fmt: skip
    end_run(work)
    return {**added, "losses": papers["losses"]}
