"""Run tasks of lm-evaluation-harness on a model that is loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normsurgery.errors import UsageError

INSTALL = "pip install 'normsurgery[eval]'"


@dataclass(frozen=True)
class TaskRequest:
    """tasks: names as the harness has them, or files of tasks. limit: samples of each.

    include_path: a directory with tasks of the user's own.
    """

    tasks: tuple[str, ...]
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 1
    chat_template: bool = False
    include_path: Path | None = None
    seed: int = 0


def check_harness(request: TaskRequest) -> str:
    """The harness's version. UsageError where it is not installed, or has no such task."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("--tasks needs lm-evaluation-harness, which is not installed", INSTALL)
    import lm_eval

    known = set(_manager(request).all_tasks)
    absent = [task for task in request.tasks if task not in known]
    if absent:
        raise UsageError(
            f"lm-evaluation-harness has no task {', '.join(absent)}",
            "`lm-eval ls tasks` lists them; --include-path DIR adds your own",
        )
    return str(lm_eval.__version__)


def run_tasks(model: Any, tokenizer: Any, request: TaskRequest) -> dict[str, Any]:
    """What `lm_eval.simple_evaluate` returns, with every sample, for a model in memory.

    The model stays as it is: its device, dtype and class, so that a graft of ours is evaluated as
    itself. Sampling of shots and texts is seeded.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    wrapped = HFLM(
        pretrained=model,
        backend="seq2seq" if getattr(model.config, "is_encoder_decoder", False) else "causal",
        tokenizer=tokenizer,
        batch_size=request.batch_size,
    )
    results: dict[str, Any] = simple_evaluate(
        model=wrapped,
        tasks=list(request.tasks),
        num_fewshot=request.num_fewshot,
        limit=request.limit,
        apply_chat_template=request.chat_template,
        task_manager=_manager(request),
        log_samples=True,
        random_seed=request.seed,
        numpy_random_seed=request.seed,
        torch_random_seed=request.seed,
        fewshot_random_seed=request.seed,
    )
    return results


def _manager(request: TaskRequest) -> Any:
    from lm_eval.tasks import TaskManager

    path = request.include_path
    return TaskManager(include_path=None if path is None else str(path))
