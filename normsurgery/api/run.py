"""`run`: a recipe's steps, one or several, as one operation that happens whole or not at all."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery.api.recipe_plan import whole_plan
from normsurgery.api.result import Result
from normsurgery.recipe import Recipe, RecipeStep, options_of, read_recipe
from normsurgery.recipe.fusion import Pass, groups, passes, why_on_files

if TYPE_CHECKING:
    from normsurgery.report.progress import Progress


Call = Callable[..., dict[str, Any]]


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
    fuse: bool = True,
    progress: Progress | None = None,
) -> RunResult:
    """Run a recipe file, or the recipe in a result's surgery.json, which makes that result again.

    overrides: `KEY=VALUE`, KEY with dots into lists and mappings (`steps.0.target=graft`), VALUE
    read as YAML. Paths are relative to the working directory. Steps run in order, each on what the
    one before made. Exact ones that follow one another (convert, fold, fold_bn, arrange with zero
    blocks) are one pass: the source is read once and the last one's result written once. Between
    passes, results lie in a hidden directory beside the output. Nothing stands under the output's
    name before the last step is verified; then it is pushed, where the recipe says so.
    dry_run: the plan of all steps; the first pass is planned on its source in detail. fuse: False
    writes and verifies every step by itself.
    Raises UsageError for anything wrong with the recipe, HubError for a push that cannot be (before
    the first step), NotPushedError for one that failed (the output stays), else what the surgeries
    raise.
    """
    checked = read_recipe(Path(recipe), overrides)
    if checked.push:
        from normsurgery.api.publish import check_push

        check_push(checked, dry_run=dry_run)
    runs = passes(checked.steps)

    def call(step: RecipeStep, source: str | Path, output: str | Path, **more: Any) -> Any:
        import normsurgery

        surgery: Callable[..., Any] = getattr(normsurgery, step.surgery)
        options = {**step.options, **step.settings(checked.settings), **more}
        if step.surgery == "heal":
            options.setdefault("teacher", checked.source)
        return surgery(source, output, dry_run=dry_run, progress=progress, **options).to_dict()

    together = groups(runs) if fuse else [[one] for one in runs]
    steps = [[one.step for one in group] for group in together]
    if dry_run:
        document = _plan(checked, together, call)
    elif len(runs) == 1:
        document = call(runs[0].step, checked.source, checked.output)
    else:
        from normsurgery.api.chain import run_chain  # torch: a wrong recipe must not wait for it

        document = run_chain(checked, steps, call)
    result = RunResult(document, checked)
    if not checked.push or os.environ.get("RANK", "0") != "0":  # of several processes one pushes
        return result
    return RunResult({**document, "push": _push(result, progress, dry_run=dry_run)}, checked)


def _push(result: RunResult, progress: Progress | None, *, dry_run: bool) -> dict[str, Any]:
    """What the document says of the push."""
    from normsurgery.api.publish import planned_push, pushed

    if dry_run:
        return planned_push(result.recipe)
    return pushed(result.recipe, result.to_dict(), progress)


def _plan(recipe: Recipe, together: Sequence[Sequence[Pass]], call: Call) -> dict[str, Any]:
    """The plan of the first pass in detail, and of all steps what is known without running them."""
    first = [one.step for one in together[0]]
    reasons: dict[int, str] = {}
    if len(first) == 1:
        document = call(first[0], recipe.source, recipe.output)
    else:
        from normsurgery.api.chain import plan_chain

        document, reasons = plan_chain(recipe, first, call)
        for number in reasons:  # the pass ends before it
            together = [[*together[0][: number - 1]], [*together[0][number - 1 :]], *together[1:]]
        together = [group for group in together if group]
    rows = _planned(recipe, together, reasons)
    whole = {"whole": whole_plan(rows, document)} if document.get("plan") else {}
    return {**document, "steps": rows, **whole}


def _planned(
    recipe: Recipe, together: Sequence[Sequence[Pass]], reasons: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Every step with its options, defaults filled in, what it promises, from where to where.

    pass: which one over the disk it is a part of. on_files: why it cannot share one. said: the
    options that the recipe names.
    """
    rows: list[dict[str, Any]] = []
    last = sum(map(len, together))
    for number_of_pass, group in enumerate(together, 1):
        for one in group:
            number = len(rows) + 1
            rows.append(
                {
                    "step": number,
                    "surgery": one.step.surgery,
                    "places": list(one.places),
                    "pass": number_of_pass,
                    "on_files": reasons.get(number) or why_on_files(one.step) or None,
                    "options": _filled(recipe, one.step),
                    "said": sorted(one.step.options),
                    "contract": promised(one.step),
                    "source": recipe.source if number == 1 else f"step {number - 1}",
                    "output": recipe.output if number == last else f"step {number}",
                }
            )
    return rows


def _filled(recipe: Recipe, step: RecipeStep) -> dict[str, Any]:
    function = getattr(import_module(f"normsurgery.api.{step.surgery}"), step.surgery)
    parameters = inspect.signature(function).parameters
    defaults = {key: parameters[key].default for key in options_of(step.surgery)}
    known = {k: v for k, v in defaults.items() if v is not inspect.Parameter.empty}
    known |= {"teacher": recipe.source} if step.surgery == "heal" else {}
    return {key: {**known, **step.options}[key] for key in defaults}


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
