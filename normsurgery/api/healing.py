"""The steps of `heal`: the plan, the training, and what is measured on the saved files."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.twin import meta_model
from normsurgery.api.asked import pinned
from normsurgery.api.document import source_document
from normsurgery.api.writing import Writing
from normsurgery.calibrate.text.tokenizer import needed_tokenizer
from normsurgery.checkpoint import Checkpoint, hash_files
from normsurgery.graft.attach import main_auto_class
from normsurgery.graft.classes import auto_classes
from normsurgery.graft.load import load_graft_class
from normsurgery.surgery.receipt import Receipt
from normsurgery.surgery.set_parameters import set_parameters
from normsurgery.train.arguments import is_main_process
from normsurgery.train.depth import recorded_blocks
from normsurgery.train.domains import Domains, load_domains
from normsurgery.train.options import TrainOptions
from normsurgery.train.run import Subject, Trained, choose, train
from normsurgery.train.saved import saved_check
from normsurgery.train.trainable import trained_count
from normsurgery.train.work import begin_run, check_run, end_run, last_checkpoint, work_directory
from normsurgery.verify import ModelSource, VerifyOptions, judge, run_reference
from normsurgery.verify.losses import (
    Measured,
    loss_tables,
    measure,
    prompts_from,
    side_by_side,
)
from normsurgery.verify.reference import chosen_device
from normsurgery.version import VERSION

CONTRACT = "trained"
CHECK_ROWS = 2


@dataclass(frozen=True)
class Job:
    """What a run is made of.

    source: the checkpoint that gets the new values: the student's, with one way in and in the dtype
    asked for. receipts, notes: of what made it so. data: the options that say which text.
    """

    student: Subject
    teacher: Subject
    options: TrainOptions
    writing: Writing
    source: Checkpoint
    receipts: tuple[Receipt, ...]
    notes: tuple[str, ...]
    data: Mapping[str, Any]
    verify: bool
    trust_remote_code: bool

    @property
    def model_class(self) -> type:
        return self.student.examination.model_class

    @property
    def form(self) -> str:
        return "stock" if self.model_class.__module__.startswith("transformers.") else "graft"

    def saved(self, staged: Path) -> ModelSource:
        """The result in a staged directory; a class beside the weights is taken from there."""
        if self.form == "stock":
            return ModelSource(staged, self.model_class)
        file = f"{self.model_class.__module__.rpartition('.')[2]}.py"
        return ModelSource(staged, load_graft_class(staged, file, self.model_class.__name__))


def model_source(subject: Subject) -> ModelSource:
    """A subject's checkpoint in the class that it was examined in."""
    return ModelSource(
        subject.checkpoint.directory,
        subject.examination.model_class,
        allow_pickle=subject.allow_pickle,
    )


def described(job: Job) -> dict[str, Any]:
    """The document before anything is done."""
    student = job.student
    architecture = job.model_class.__name__
    classes = auto_classes(student.examination.config, job.model_class)
    document = {
        "command": "heal",
        "version": VERSION,
        "source": source_document(student.checkpoint, architecture),
        "teacher": source_document(
            job.teacher.checkpoint, job.teacher.examination.model_class.__name__
        ),
        "output": None,
        "target": {
            "form": job.form,
            "modeling_file": job.form == "graft",
            "architecture": architecture,
            "auto_class": main_auto_class(classes, architecture),
            "auto_classes": list(classes),
            "engines": ["transformers"],
            "why": "the class that trained",
            "alternatives": [],
        },
        "receipts": [receipt.to_dict() for receipt in job.receipts],
        "notes": list(job.notes),
        "verification": {"verdict": "skipped", "contract": CONTRACT},
    }
    blocks = recorded_blocks(student.checkpoint.directory)
    return document if blocks is None else {**document, "blocks": blocks}


def planned(job: Job) -> dict[str, Any]:
    """What a dry run adds: no weight is read and no text."""
    examination = job.student.examination
    model = meta_model(examination.model_class, examination.config)
    hollow = dict(model.state_dict())  # before adapters rename what they wrap
    chosen, changed, notes = choose(model, examination, job.options)
    training: dict[str, Any] = {
        "method": job.options.method,
        "steps": None if job.options.epochs else job.options.steps_over(0),
        "tokens": None,
        "trainable_parameters": trained_count(chosen),
        "loss": [],
    }
    result, receipt = _with_values(job, hollow, changed, training, notes)
    receipts = [*job.receipts, receipt]
    return {
        "training": training,
        "receipts": [one.to_dict() for one in receipts],
        "plan": job.writing.plan(job.student.checkpoint, result, receipts, CONTRACT),
    }


def healed(job: Job, document: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """Train, write, verify and publish; what this adds to the document.

    A process that is not the main one trains, and returns what it knows.
    """
    domains = load_domains(
        job.student.checkpoint.directory,
        seed=job.options.seed,
        trust_remote_code=job.trust_remote_code,
        **job.data,
    )
    trained, work = _trained(job, domains, resume=resume)
    training = _training(job.options, trained, domains)
    result, receipt = _with_values(job, trained.state, trained.changed, training, trained.notes)
    added: dict[str, Any] = {
        "training": training,
        "receipts": [one.to_dict() for one in (*job.receipts, receipt)],
    }
    if not trained.main:
        return added
    papers = {**document, **added, "recipe": _recipe(job)}

    def verified(staged: Path) -> dict[str, Any]:
        saved = job.saved(staged)
        papers.update(_compared(job, saved, domains))
        return _verification(job, trained, result, saved, domains) if job.verify else {
            "verdict": "skipped", "contract": CONTRACT,
        }  # fmt: skip

    notes = [*job.notes, *trained.notes]
    added |= job.writing.write(job.student.checkpoint, result, papers, verified, notes=notes)
    end_run(work)
    return {**added, "losses": papers["losses"], "samples": papers["samples"]}


def _trained(job: Job, domains: Domains, *, resume: bool) -> tuple[Trained, Path]:
    """The training itself, from the start or from where an interrupted run got to."""
    work = work_directory(job.writing.output, "heal")
    run = _identity(job, domains)
    check_run(work, run, resume=resume, overwrite=job.writing.overwrite)
    start = last_checkpoint(work) if resume else None
    if is_main_process():
        begin_run(work, run, resume=start is not None)
    trained = train(
        job.student, job.teacher, domains.training, job.options, work,
        resume_from=start, progress=job.writing.progress,
    )  # fmt: skip
    return trained, work


def _identity(job: Job, domains: Domains) -> dict[str, Any]:
    """What must be the same for a run to be the continuation of another."""
    options = job.options.to_dict()
    for name in ("save_every", "device", "gradient_checkpointing"):  # these move no weight
        del options[name]
    return {
        **options,
        "text": domains.training.about["sha256"],
        "model": [file.sha256 for file in hash_files(job.student.checkpoint.weight_files)],
        "teacher": [file.sha256 for file in hash_files(job.teacher.checkpoint.weight_files)],
    }


def _with_values(
    job: Job,
    state: Mapping[str, Tensor],
    changed: Collection[str],
    training: Mapping[str, Any],
    notes: Sequence[str],
) -> tuple[Checkpoint, Receipt]:
    parameters = {key: value for key, value in training.items() if key != "loss"}
    return set_parameters(
        job.source, job.student.examination.names, {name: state[name] for name in changed},
        surgery="train", contract=CONTRACT, parameters=parameters, notes=notes,
    )  # fmt: skip


def _training(options: TrainOptions, trained: Trained, domains: Domains) -> dict[str, Any]:
    return {
        "method": options.method,
        "steps": trained.steps,
        "tokens": trained.tokens,
        "trainable_parameters": trained.trainable_parameters,
        "learning_rate": options.learning_rate,
        "weights": asdict(options.weights),
        "text": domains.training.about,
        "final": trained.final,
        "loss": [list(point) for point in trained.loss],
    }


def _recipe(job: Job) -> dict[str, Any]:
    options = job.options.to_dict()
    text = {**job.data, "data": _without_path(job.data["data"])}
    return {
        "source": job.student.checkpoint.model_id,
        "steps": [
            {"surgery": "heal", "teacher": pinned(job.teacher.checkpoint), **options, **text}
        ],
    }


def _without_path(data: str | None) -> str | None:
    """A file by its name alone: papers hold no local path."""
    return Path(data).name if data is not None and Path(data).is_file() else data


def _compared(job: Job, saved: ModelSource, domains: Domains) -> dict[str, Any]:
    """Losses on rows that did not train, and greedy samples: original, before, result."""
    models = {
        "original": model_source(job.teacher),
        "before": model_source(job.student),
        "result": saved,
    }
    tokenizer = needed_tokenizer(
        job.student.checkpoint.directory, trust_remote_code=job.trust_remote_code
    )
    prompts = prompts_from(next(iter(domains.measured.values())))
    measured: dict[str, Measured] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        job.writing.progress.task("measure", len(models), "steps") as advance,
    ):
        for name, source in models.items():
            measured[name] = measure(
                source, domains.measured, dtype=torch.float32, scratch=Path(scratch),
                device=chosen_device(job.options.device), prompts=prompts,
            )  # fmt: skip
            advance(1)
    return {
        "losses": loss_tables(domains.measured, measured),
        "samples": side_by_side(tokenizer, prompts, measured),
    }


def _verification(
    job: Job, trained: Trained, result: Checkpoint, saved: ModelSource, domains: Domains
) -> dict[str, Any]:
    """The saved files against the model that trained, and beside the model as it was."""
    held_out = next(iter(domains.measured.values()))
    check = saved_check(
        trained.model, trained.changed, result, job.student.examination.names, saved,
        held_out.ids[:CHECK_ROWS],
    )  # fmt: skip
    options = VerifyOptions(contract=CONTRACT, device=job.options.device, seed=job.options.seed)
    reference = run_reference(model_source(job.student), options, progress=job.writing.progress)
    judged = judge(reference, saved, progress=job.writing.progress).to_dict()
    said = (
        f"the saved files' logits are {check['error']:.3g} × std from the trained model's, "
        f"{check['allowed']:.3g} is allowed; rounding to the storage dtype moved "
        f"{check['rounding']:.3g}"
    )
    return with_saved(judged, check, said, form=job.form, contract=CONTRACT)


def with_saved(
    judged: dict[str, Any], check: dict[str, Any], said: str, *, form: str, contract: str
) -> dict[str, Any]:
    """The document's `verification`: one form judged, and failed where the saved files are not what
    trained. said: the check in words."""
    judged["notes"] = [*judged["notes"], said]
    if not check["passed"]:
        judged |= {"verdict": "fail", "why": said, "reasons": [*judged["reasons"], said]}
    return {"verdict": judged["verdict"], "contract": contract, form: judged, "saved": check}
