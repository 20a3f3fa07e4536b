"""`remove-ln`: a language model learns to do without its norms."""

from __future__ import annotations

import time
from pathlib import Path

from normsurgery.api.asked import recorded
from normsurgery.api.document import peak_memory_bytes
from normsurgery.api.removal.measuring import previewed
from normsurgery.api.removal.request import Export, RemovalRequest, ReportTo, TeacherName
from normsurgery.api.removal.result import one_shot_removed
from normsurgery.api.removal.task import described, open_task, planned
from normsurgery.api.removal.training import finetuned
from normsurgery.api.result import Result
from normsurgery.api.writing import Writing
from normsurgery.errors import UsageError
from normsurgery.report.progress import Progress, Silent


class RemoveLnResult(Result):
    """What `remove_ln` did (or, on a dry run or a preview, would do), as a document."""


@recorded
def remove_ln(
    model: str | Path,
    output: str | Path,
    *,
    finetune: bool = False,
    one_shot: bool = False,
    data: str | None = None,
    text_column: str = "text",
    other_data: str | None = None,
    tokens: int | None = None,
    max_length: int | None = None,
    schedule: str | Path = "auto",
    sites: str = "mlp,attention,final",
    export: Export = "graft",
    control: bool | None = None,
    teacher: TeacherName | None = None,
    lr: float | None = None,
    batch_size: int = 16,
    gradient_accumulation: int | None = None,
    gradient_checkpointing: bool = False,
    bf16: bool | None = None,
    save_every: int | None = None,
    resume: bool = False,
    report_to: ReportTo = "none",
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
) -> RemoveLnResult:
    """Replace every norm of a pre-norm language model by a division by one frozen scalar.

    y = γ (x − mean x)/σ̂ + β, affine in x, one path after the other while the model trains
    (finetune), or all at once at the calibrated σ̂ (one_shot). With neither, it measures what would
    happen, writes nothing, and the document has "preview".

    sites: which norms, words of mlp, attention, final and inner. export: "graft" has no norm left
    and a modeling file beside the weights; "stock" is the source's class, whose norms divide by a
    constant; "partial" is for fewer sites. schedule: "auto", a published one by name, or a YAML
    file. control: the same training for the untouched model; None where it costs little. tokens:
    to train on, or to calibrate on; None is the schedule's own number, 3,000,000, or 50,000.
    plots: draw the training, the scales and the losses into output/plots, for the card.
    An interrupted run goes on with resume=True, to the same weights. In several processes
    (`accelerate launch`) only the main one writes; the others' documents have no losses.
    Sources: arXiv 2507.02559, 2409.13710.
    Raises UsageError for options or text that do not fit together, UnsupportedModelError where the
    norms cannot go (with the reason), SurgeryError where the training does not hold (nothing is
    written), VerificationError where the saved files are not the model that trained.
    """
    started = time.monotonic()
    if plots and not (finetune or one_shot):
        raise UsageError(
            "--plots draws into the output, and a preview writes none", "--finetune or --one-shot"
        )
    request = RemovalRequest(
        finetune, one_shot, data, text_column, other_data, tokens, max_length, str(schedule),
        RemovalRequest.words(sites), export, control, teacher, lr, batch_size,
        gradient_accumulation, gradient_checkpointing, bf16, save_every, resume, report_to,
        dtype, verify, device, seed, trust_remote_code, dry_run,
    )  # fmt: skip
    writing = Writing(
        Path(output), overwrite, max_shard_size, keep_failed, allow_nonfinite, allow_pickle, seed,
        progress or Silent(), plots,
    )  # fmt: skip
    task = open_task(model, writing, request)
    document = described(task)
    if dry_run:
        document |= planned(task)
    elif finetune:
        document |= finetuned(task, document)
    elif one_shot:
        document |= one_shot_removed(task, document)
    else:
        document |= previewed(task, document)
    document["seconds"] = round(time.monotonic() - started, 3)
    document["peak_memory_bytes"] = peak_memory_bytes()
    return RemoveLnResult(document)
