"""What is measured on text: losses and samples of models on disk and in memory, and a preview."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from normsurgery.anatomy.norm_paths import end_token, read_paths
from normsurgery.api.healing import model_source
from normsurgery.api.removal.request import CALIBRATION_TOKENS
from normsurgery.api.removal.task import Task
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.calibrate.text.tokenizer import needed_tokenizer
from normsurgery.calibrate.text.vocabulary import holes_note, vocabulary_holes
from normsurgery.report.progress import Advance
from normsurgery.train.domains import Domains, load_domains
from normsurgery.train.norms.attach import Removal, attach
from normsurgery.train.options import HELD_OUT_SHARE
from normsurgery.train.removal.sensitivity import mean_loss, measure_sensitivity
from normsurgery.verify import ModelSource
from normsurgery.verify.losses import (
    Measured,
    greedy_samples,
    loss_tables,
    measure,
    model_losses,
    prompts_from,
    side_by_side,
)
from normsurgery.verify.reference import chosen_device

MEASURED_TOKENS = 100_000  # of held-out text: a hundred tokens beyond the 99.9th percentile
SENSITIVITY_TOKENS = 4096
SENSITIVITY_FLOPS = 2e13  # over all paths: minutes on two CPU cores
_ROWS = 8


def text_of(task: Task, tokens: int | None = None) -> Domains:
    """The text of the run, at most MEASURED_TOKENS of each held-out part.

    tokens: to load; None is enough to train on once when the held-out part is taken away.
    """
    trained = task.request.tokens or task.budget.tokens
    wanted = tokens or math.ceil(trained / (1 - HELD_OUT_SHARE))
    directory = task.subject.checkpoint.directory
    domains = load_domains(directory, tokens=wanted, **task.request.text)
    measured = {name: rows.at_most(MEASURED_TOKENS) for name, rows in domains.measured.items()}
    return Domains(domains.training, measured)


def vocabulary_document(task: Task, rows: TextRows) -> tuple[dict[str, Any], list[str]]:
    """The document's `vocabulary`, and a warning where it has many holes."""
    holes = vocabulary_holes(rows, _tokenizer(task), task.vocabulary)
    note = holes_note(holes)
    return holes, [note] if note else []


def _tokenizer(task: Task) -> Any:
    return needed_tokenizer(
        task.subject.checkpoint.directory, trust_remote_code=task.request.trust_remote_code
    )


def measured_in_memory(task: Task, model: Any, domains: Domains) -> Measured:
    """A live model (eval) on the held-out text, and its samples."""
    device = next(model.parameters()).device
    losses = {
        name: model_losses(model, rows, device=device) for name, rows in domains.measured.items()
    }
    prompts = prompts_from(next(iter(domains.measured.values())))
    return Measured(losses, greedy_samples(model, _tokenizer(task), prompts, device=device))


def measured_on_disk(task: Task, source: ModelSource, domains: Domains) -> Measured:
    """A saved model on the held-out text, and its samples."""
    prompts = prompts_from(next(iter(domains.measured.values())))
    with tempfile.TemporaryDirectory() as scratch:
        return measure(
            source, domains.measured, dtype=torch.float32, scratch=Path(scratch),
            device=chosen_device(task.request.device), prompts=prompts,
        )  # fmt: skip


def original(task: Task, domains: Domains) -> Measured:
    """The model as it was."""
    return measured_on_disk(task, model_source(task.subject), domains)


def compared(task: Task, domains: Domains, measured: Mapping[str, Measured]) -> dict[str, Any]:
    """The document's `losses` and `samples`, in the order of `measured`."""
    prompts = prompts_from(next(iter(domains.measured.values())))
    return {
        "losses": loss_tables(domains.measured, measured),
        "samples": side_by_side(_tokenizer(task), prompts, measured),
    }


@contextmanager
def calibrated(task: Task, rows: TextRows) -> Iterator[tuple[Any, Removal]]:
    """The model in memory (float32, eval), its norms attached, their scales measured on rows."""
    device = chosen_device(task.request.device)
    model = task.subject.load(torch.float32).to(device)
    paths = read_paths(task.subject.examination, model, sites=task.request.sites)
    removal = attach(model, paths, end=end_token(model))
    with task.writing.progress.task("calibrate", rows.tokens, "tokens") as advance:
        removal.observe(fed(rows, device, advance))
    try:
        yield model, removal
    finally:
        removal.detach()


def fed(
    rows: TextRows, device: torch.device, advance: Advance | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """The rows as arguments of a model's forward."""
    for batch in rows.batches(_ROWS):
        yield {
            "input_ids": batch.ids.to(device), "attention_mask": batch.mask.long().to(device),
        }  # fmt: skip
        if advance is not None:
            advance(batch.tokens)


def statistics_document(task: Task, removal: Removal) -> list[dict[str, Any]]:
    """The document's `statistics`: σ̂ of each path, and of special tokens before they merged."""
    held, drift = removal.state()["paths"], removal.drift()
    return [
        {
            "path": path.name,
            "kind": path.kind,
            "sigma": held[path.name]["ordinary"],
            "first": held[path.name]["first"],
            "end": held[path.name]["end"],
            "removed_at": None,
            "drift": drift.get(path.name),
        }
        for path in task.paths
    ]


def previewed(task: Task, document: Mapping[str, Any]) -> dict[str, Any]:
    """What would happen: scales, the loss without norms, which path the loss would feel most."""
    domains = text_of(task, min(task.request.tokens or CALIBRATION_TOKENS, CALIBRATION_TOKENS))
    holes, notes = vocabulary_document(task, domains.training)
    measured = {"original": original(task, domains)}
    with calibrated(task, domains.training) as (model, removal):
        statistics = statistics_document(task, removal)
        before = removal.state()
        alone, said = _sensitivity(task, removal, domains)
        removal.restore(before)
        freeze_all(removal)
        with removal.still():
            measured["one-shot"] = measured_in_memory(task, model, domains)
    return {
        "preview": True,
        "statistics": statistics,
        "sensitivity": alone,
        "vocabulary": holes,
        "calibration": domains.training.about,
        "notes": [*document["notes"], *notes, *said],
        **compared(task, domains, measured),
    }


def freeze_all(removal: Removal) -> None:
    """Every path at its scale, the special tokens' with them."""
    removal.remove([path.name for path in removal.paths])
    removal.merge("end")
    removal.merge("first")


def _sensitivity(
    task: Task, removal: Removal, domains: Domains
) -> tuple[list[dict[str, Any]], list[str]]:
    """The loss on a little held-out text when one path alone is removed; why not, where it costs.

    Special tokens keep the scales of their own, which go last.
    """
    one_path = 2 * task.parameters * len(task.paths)
    tokens = min(SENSITIVITY_TOKENS, int(SENSITIVITY_FLOPS // max(1, one_path)))
    if tokens < task.budget.row:
        return [], ["paths were not removed one at a time: that would take too long here"]
    rows = next(iter(domains.measured.values())).at_most(tokens)
    count = len(rows.ids)
    base = mean_loss(removal, rows, count=count, batch_size=_ROWS)
    task_of = task.writing.progress.task("sensitivity", len(task.paths), "steps")
    with task_of as advance:
        added = measure_sensitivity(removal, rows, count=count, batch_size=_ROWS, advance=advance)
    return [
        {
            "path": path.name, "kind": path.kind,
            "loss": base + added[path.name], "added": added[path.name],
        }
        for path in removal.paths
    ], []  # fmt: skip
