"""What transformers.Trainer is told, and what it is told by the launcher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from normsurgery.errors import UsageError
from normsurgery.train.options import TrainOptions


def training_arguments(options: TrainOptions, rows: int, work: Path, **changes: Any) -> Any:
    """transformers.TrainingArguments for a run over so many rows. changes: of single arguments."""
    from transformers import TrainingArguments

    steps = options.steps_over(rows, process_count())
    on_cpu = options.device == "cpu" or not torch.cuda.is_available()
    if options.device.startswith("cuda") and on_cpu:
        raise UsageError(f"--device {options.device}: there is no CUDA device", "--device cpu")
    if options.device.startswith("cuda:") and options.device != "cuda:0":
        raise UsageError(
            "training runs on the first device that the process sees",
            f"CUDA_VISIBLE_DEVICES={options.device.removeprefix('cuda:')} normsurgery …",
        )
    values: dict[str, Any] = {
        "output_dir": str(work),
        "max_steps": steps,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(options.warmup * steps),
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.clip,
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.gradient_accumulation,
        "bf16": _bf16(options.bf16, on_cpu),
        "use_cpu": on_cpu,
        "seed": options.seed,
        "data_seed": options.seed,
        "save_steps": options.save_every or max(1, steps // 10),
        "save_total_limit": 1,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": not on_cpu,
        # a tower that text does not pass has no gradient
        "ddp_find_unused_parameters": options.method == "full",
    }
    arguments = TrainingArguments(**{**values, **changes})
    if process_count() == 1:
        arguments._n_gpu = min(1, arguments.n_gpu)  # DataParallel would copy the taps
    return arguments


def is_main_process() -> bool:
    """Whether this process writes and prints, as the launcher numbered it."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _bf16(asked: bool | None, on_cpu: bool) -> bool:
    if asked is None:
        return not on_cpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return asked
