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


class Harness:
    """lm-evaluation-harness with the tasks of a request.

    UsageError where it is not installed, or has no such task.
    """

    def __init__(self, request: TaskRequest) -> None:
        if importlib.util.find_spec("lm_eval") is None:
            raise UsageError("--tasks needs lm-evaluation-harness, which is not installed", INSTALL)
        import lm_eval

        self.version = str(lm_eval.__version__)
        self._request, self._manager = request, _manager(request)
        known = set(self._manager.all_tasks)
        absent = [task for task in request.tasks if task not in known]
        if absent:
            raise UsageError(
                f"lm-evaluation-harness has no task {', '.join(absent)}",
                "`lm-eval ls tasks` lists them; --include-path DIR adds your own",
            )

    def run(self, model: Any, tokenizer: Any) -> dict[str, Any]:
        """What `lm_eval.simple_evaluate` returns, with every sample, for a model in memory.

        The model stays as it is: its device, dtype and class, so that a graft of ours is evaluated
        as itself. Sampling of shots and texts is seeded.
        """
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        request = self._request
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
            task_manager=self._manager,
            log_samples=True,
            random_seed=request.seed,
            numpy_random_seed=request.seed,
            torch_random_seed=request.seed,
            fewshot_random_seed=request.seed,
        )
        return results


def _manager(request: TaskRequest) -> Any:
    """The user's own tasks alone where these are all: the harness has thousands to list."""
    from lm_eval.tasks import TaskManager

    if request.include_path is None:
        return TaskManager()
    path = str(request.include_path)
    own = TaskManager(include_path=path, include_defaults=False)
    if set(request.tasks) <= set(own.all_tasks):
        return own
    return TaskManager(include_path=path)
