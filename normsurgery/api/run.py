"""`run`: a recipe's steps, one or several, as one operation that happens whole or not at all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery.api.result import Result
from normsurgery.recipe import Recipe, RecipeStep, options_of, read_recipe
from normsurgery.recipe_fusion import Pass, passes

if TYPE_CHECKING:
    from normsurgery.report.progress import Progress


@dataclass(frozen=True)
class RunResult(Result):
    """What a recipe did: the document of its surgery, or of all of them, with the recipe in it."""

    recipe: Recipe

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        return {**self.document, "command": "run", "recipe": self.recipe.to_dict()}


def run(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    dry_run: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Run a recipe file, or the recipe in a result's surgery.json, which makes that result again.

    overrides: `KEY=VALUE`, KEY with dots into lists and mappings (`steps.0.target=graft`), VALUE
    read as YAML. Paths are relative to the working directory. Steps run in order, each on what the
    one before made, in a hidden directory beside the output; folds that follow one another are
    done in one pass. Nothing stands under the output's name before the last step is verified.
    dry_run: the plan of all steps; the first one is planned on its source in detail.
    Raises UsageError for anything wrong with the recipe, else what the surgeries raise.
    """
    checked = read_recipe(Path(recipe), overrides)
    runs = passes(checked.steps)

    def call(step: RecipeStep, source: str | Path, output: str | Path, **more: Any) -> Any:
        import normsurgery

        surgery: Callable[..., Any] = getattr(normsurgery, step.surgery)
        options = {**step.options, **step.settings(checked.settings), **more}
        if step.surgery == "heal":
            options.setdefault("teacher", checked.source)
        return surgery(source, output, dry_run=dry_run, progress=progress, **options).to_dict()

    if len(runs) == 1 or dry_run:
        document = call(runs[0].step, checked.source, checked.output)
    else:
        from normsurgery.api.chain import run_chain  # torch: a wrong recipe must not wait for it

        document = run_chain(checked, [one.step for one in runs], call)
    if dry_run:
        document = {**document, "steps": _planned(checked, runs)}
    return RunResult(document, checked)


def _planned(recipe: Recipe, runs: Sequence[Pass]) -> list[dict[str, Any]]:
    """Every pass with its options, defaults filled in, what it promises, from where to where."""
    rows = []
    for number, one in enumerate(runs, 1):
        rows.append(
            {
                "step": number,
                "surgery": one.step.surgery,
                "places": list(one.places),
                "options": _filled(one.step),
                "contract": promised(one.step),
                "source": recipe.source if number == 1 else f"step {number - 1}",
                "output": recipe.output if number == len(runs) else f"step {number}",
            }
        )
    return rows


def _filled(step: RecipeStep) -> dict[str, Any]:
    function = getattr(import_module(f"normsurgery.api.{step.surgery}"), step.surgery)
    parameters = inspect.signature(function).parameters
    defaults = {key: parameters[key].default for key in options_of(step.surgery)}
    known = {k: v for k, v in defaults.items() if v is not inspect.Parameter.empty}
    return {**known, **step.options}


def promised(step: RecipeStep) -> str:
    """The contract that a step has, or those that it may have where its source decides."""
    options = step.options
    if step.surgery == "prune":
        fits = {options.get(key, "none") for key in ("substitute", "heal")} != {"none"}
        return "fitted" if fits else "lossy"
    if step.surgery == "fold" and "recalibrate" in options["what"]:
        return "fitted"
    if step.surgery == "arrange":
        return "exact where every block stays in its place, else lossy"
    if step.surgery == "remove_ln":
        return "lossy" if options.get("one_shot") else "trained"
    return "trained" if step.surgery == "heal" else "exact"
