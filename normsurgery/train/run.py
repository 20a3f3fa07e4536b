"""One training run, from a checkpoint on disk to the trained model in memory.

Works in several processes as transformers.Trainer does (`accelerate launch`): each trains on its
share of the rows, all end with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.examine import Examination, examine
from normsurgery.anatomy.runtime import quiet
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError
from normsurgery.report.progress import Progress, Silent
from normsurgery.train.arguments import is_main_process, training_arguments
from normsurgery.train.data import RowsDataset, collate
from normsurgery.train.depth import matched_blocks, recorded_order, text_stack
from normsurgery.train.lora import add_lora, linear_names, merge_lora, stacked_names
from normsurgery.train.options import TrainOptions
from normsurgery.train.taps import Taps
from normsurgery.train.texts import why_no_text
from normsurgery.train.trainable import (
    choose_all,
    choose_head_and_last,
    trained_count,
    trained_names,
    without_dropout,
)
from normsurgery.train.trainer import Objective, SurgeryTrainer, Teacher, Watch


@dataclass(frozen=True)
class Subject:
    """A checkpoint that takes part in training, and what is known of it."""

    checkpoint: Checkpoint
    examination: Examination
    allow_pickle: bool = False

    @staticmethod
    def of(checkpoint: Checkpoint, *, trust_remote_code: bool, allow_pickle: bool) -> Subject:
        """Examine it. Raises UnsupportedModelError unless it predicts the next token of a text."""
        found = examine(checkpoint, trust_remote_code=trust_remote_code)
        reason = why_no_text(found)
        if reason is not None:
            raise UnsupportedModelError(reason, "normsurgery inspect MODEL   # what does apply")
        return Subject(checkpoint, found, allow_pickle)

    def load(self, dtype: torch.dtype | str) -> Any:
        """The model in a dtype ("auto": its own), on the CPU, eval."""
        options: dict[str, Any] = {
            "dtype": dtype,
            "local_files_only": True,
            "experts_implementation": "eager",
        }
        if not self.allow_pickle:
            options["use_safetensors"] = True
        loader: Any = self.examination.model_class
        with quiet():
            model = loader.from_pretrained(str(self.checkpoint.directory), **options)
        for config in (model.config, model.config.get_text_config()):
            config.use_cache = False
        return model.eval()


@dataclass(frozen=True)
class Trained:
    """What a run made: the model's values by parameter name, and the figures of the run.

    changed: parameters that trained. loss: (step, loss) of each step. final: each part of the loss,
    mean over the last tenth of the steps. main: whether this process is the one that writes.
    """

    state: Mapping[str, Tensor]
    changed: tuple[str, ...]
    trainable_parameters: int
    steps: int
    tokens: int
    loss: list[tuple[int, float]]
    final: dict[str, float]
    notes: tuple[str, ...]
    model: Any
    main: bool


def train(
    student: Subject,
    teacher: Subject | None,
    rows: TextRows,
    options: TrainOptions,
    work: Path,
    *,
    resume_from: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train the student on rows of text. work: where checkpoints to resume from are kept.

    teacher: None where no part of the loss needs one. resume_from: one of those checkpoints.
    Raises SurgeryError where the loss is not finite, UsageError where the two do not fit together.
    """
    from transformers import set_seed

    pairs = pairing(student, teacher, options)
    set_seed(options.seed)  # adapters are drawn before the Trainer sets it
    model = ready_model(student, options)
    taps = Taps([model.get_submodule(student_block) for student_block, _ in pairs])
    model, changed, notes = choose(model, student.examination, options)
    trainer = SurgeryTrainer(
        model=model,
        args=training_arguments(options, len(rows.ids), work),
        train_dataset=RowsDataset(rows),
        data_collator=collate,
        objective=Objective(weights=lambda step: options.weights),
        taps=taps,
        teacher=_ready_teacher(teacher, pairs, options),
    )
    count = trained_count(model)
    total = trainer.args.max_steps
    task = (progress or Silent()).task("train", total if is_main_process() else None, "steps")
    with task as advance, quiet():
        trainer.add_callback(Watch(advance))
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    merged = merge_lora(trainer.model) if options.method == "lora" else trainer.model
    return Trained(
        state=whole_state(trainer) if merged is trainer.model else merged.state_dict(),
        changed=tuple(changed),
        trainable_parameters=count,
        notes=notes,
        model=merged.eval(),
        main=trainer.is_world_process_zero(),
        **history(trainer.state),
    )


def ready_model(student: Subject, options: TrainOptions) -> Any:
    """The model with float32 master weights and without dropout, on the CPU."""
    model = student.load(torch.float32)
    without_dropout(model)
    if options.gradient_checkpointing:
        _checkpoint_activations(model)
    return model


def pairing(
    student: Subject, teacher: Subject | None, options: TrainOptions
) -> list[tuple[str, str]]:
    """Module paths of (student's block, teacher's block) whose streams the loss compares."""
    if not options.weights.hidden:
        return []
    if teacher is None:
        raise UsageError("--hidden compares with a teacher, and none was given", "--teacher MODEL")
    own, other = text_stack(student.examination), text_stack(teacher.examination)
    if own.width != other.width:
        raise UsageError(
            f"the student's stream is {own.width} wide and the teacher's {other.width}",
            "--hidden 0",
        )
    order = recorded_order(student.checkpoint.directory, other.depth)
    pairs = matched_blocks(own.depth, other.depth, order)
    return [(own.blocks[left], other.blocks[right]) for left, right in pairs]


def choose(
    model: Any, examination: Examination, options: TrainOptions
) -> tuple[Any, list[str], tuple[str, ...]]:
    """The model made ready for the method, the parameters that will differ, and notes.

    model: of the examined class, at full size, with or without storage.
    """
    if options.method == "lora":
        blocks = text_stack(examination).name
        linears = linear_names(model, blocks, examination.twin.model)
        stacked = stacked_names(model, blocks)
        changed = [*(f"{name}.weight" for name in linears), *stacked]
        return add_lora(model, linears, stacked, rank=options.lora_rank), changed, ()
    if options.method == "full":
        notes = choose_all(model)
    else:
        notes = choose_head_and_last(model, examination)
    return model, trained_names(model), notes


def _ready_teacher(
    teacher: Subject | None, pairs: list[tuple[str, str]], options: TrainOptions
) -> Teacher | None:
    if not options.weights.needs_teacher:
        return None
    if teacher is None:
        raise UsageError("the KL compares with a teacher, and none was given", "--teacher MODEL")
    model = teacher.load("auto").requires_grad_(False)
    return Teacher(model, Taps([model.get_submodule(block) for _, block in pairs]))


def _checkpoint_activations(model: nn.Module) -> None:
    # renamed in transformers 5.2x; the old name warns
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)()  # type: ignore[operator]


def whole_state(trainer: Any) -> Mapping[str, Tensor]:
    """The model's values by name; gathered where processes share them out (in the main one)."""
    if trainer.is_fsdp_enabled:
        gathered: Mapping[str, Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        return gathered
    state: Mapping[str, Tensor] = trainer.model.state_dict()
    return state


def history(state: Any) -> dict[str, Any]:
    """Steps, tokens, the loss of each step, and the mean of each part over the last tenth."""
    steps = [entry for entry in state.log_history if "grad_norm" in entry]
    last = steps[-max(1, len(steps) // 10) :]
    parts = [name for name in ("loss", "ce", "kl", "hidden", "aux") if name in steps[-1]]
    return {
        "steps": int(state.global_step),
        "tokens": int(sum(entry["tokens"] for entry in steps)),
        "loss": [(int(entry["step"]), float(entry["loss"])) for entry in steps],
        "final": {name: sum(entry[name] for entry in last) / len(last) for name in parts},
    }
