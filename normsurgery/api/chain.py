"""Several surgeries in a row: what each makes is the next one's source, the last one's the output.

Exact steps that follow one another are one pass: they hand a lazy checkpoint on, and the last one's
result is written. Passes write into a hidden directory beside the output. The last result gets
papers that tell of all steps, and moves into place in one rename.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from normsurgery.api.chain_papers import combined, limits, recorded_recipe, source_card
from normsurgery.api.fused import (
    documents_of,
    hand_over,
    mark_verified,
    papers_of,
    plan_pass,
    write_pass,
)
from normsurgery.api.handover import Handed, NotFusedError
from normsurgery.api.writing import config_diff, write_papers
from normsurgery.checkpoint import Checkpoint, Staging, check_destination, open_checkpoint
from normsurgery.errors import SurgeryError, UsageError, VerificationError
from normsurgery.recipe import Recipe, RecipeStep
from normsurgery.recipe.fusion import why_on_files

Group = Sequence[RecipeStep]
Call = Callable[..., dict[str, Any]]
"""Runs a step: `call(step, source, output, **settings)` → its document."""


def run_chain(recipe: Recipe, groups: Sequence[Group], call: Call) -> dict[str, Any]:
    """Run two steps or more; the document of all of them.

    groups: the steps in order, those together that are one pass where they turn out to fit.
    Raises UsageError in several processes, which cannot share the hidden directory; what a step
    raises, with its number before it. Nothing is then left under the output's name.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "a recipe of several steps runs in one process", "split it, one step in each recipe"
        )
    output = Path(recipe.output)
    overwrite = bool(recipe.settings.get("overwrite", False))
    check_destination(output, overwrite=overwrite, source=None)  # before a download
    source = open_checkpoint(recipe.source, allow_pickle=recipe.allows_pickle)
    place: dict[str, Any] = {"overwrite": overwrite, "source": source.directory, "needed_bytes": 0}
    with Staging(output, **place) as scratch, Staging(output, **place) as staging:
        steps = Steps(recipe, call, scratch.path)
        for group in groups:
            steps.run(group)
        for entry in Path(steps.source).iterdir():
            entry.rename(staging.path / entry.name)
        in_order = [step for group in groups for step in group]
        why = {
            number: steps.reasons.get(number) or why_on_files(step) or None
            for number, step in enumerate(in_order, 1)
        }
        recorded = combined(steps.papers, steps.passes, why)
        recorded["recipe"] = recorded_recipe(source, recipe, in_order, steps.papers)
        recorded["config_diff"] = config_diff(source, staging.path)
        write_papers(
            staging.path, recorded, source_card(source), notes=limits(steps.papers, recorded)
        )
        staging.publish()
    return {**combined(steps.documents, steps.passes, why), "output": str(output)}


def plan_chain(recipe: Recipe, group: Group, call: Call) -> tuple[dict[str, Any], dict[int, str]]:
    """The plan of the first pass of a recipe, in detail; and of those of its steps that turn out
    not to fit into it, by number, the reason."""
    with tempfile.TemporaryDirectory(prefix="normsurgery-plan-") as scratch:
        steps = Steps(recipe, call, Path(scratch))
        handed = steps.hand_over(group)
        if not handed:
            return call(group[0], recipe.source, recipe.output), steps.reasons
        documents = documents_of(handed)
        found = combined(documents, [], {})
        found["plan"] = plan_pass(handed)
    return {**found, "command": documents[0]["command"]}, steps.reasons


class Steps:
    """Steps as they are run, one pass after the other, in a hidden directory.

    source: what the next one starts from. documents, papers: of every step so far. passes: which
    steps each pass was made of. reasons: number of a step → why it was not a part of a pass.
    """

    def __init__(self, recipe: Recipe, call: Call, scratch: Path) -> None:
        self.recipe, self.call, self.scratch = recipe, call, scratch
        self.source: str | Path = recipe.source
        self.documents: list[dict[str, Any]] = []
        self.papers: list[dict[str, Any]] = []
        self.passes: list[list[int]] = []
        self.reasons: dict[int, str] = {}

    def run(self, group: Group) -> None:
        """Run the steps of a group, in as few passes as it takes."""
        rest = list(group)
        while rest:
            known = self._number(()) in self.reasons
            handed = self.hand_over(rest) if len(rest) > 1 and not known else []
            if handed:
                self._write(handed, rest)
            else:
                self._alone(rest[0])
            rest = rest[max(1, len(handed)) :]

    def hand_over(self, group: Group) -> list[Handed]:
        """Plan and prove steps in a row without writing; those that come before one that needs
        files."""
        handed: list[Handed] = []
        given: Checkpoint | None = None
        for step in group:
            number = self._number(handed)
            try:
                given = given or self._opened()
                surgery = partial(
                    self.call, step, self.source, self._target(number), overwrite=False
                )
                handed.append(hand_over(given, self.scratch / f"files-{number}", surgery))
            except NotFusedError as reason:
                self.reasons[number] = str(reason)
                break
            except SurgeryError as error:
                raise self._named(error, number, step) from error
            given = handed[-1].after
        return handed

    def _opened(self) -> Checkpoint:
        return open_checkpoint(self.source, allow_pickle=self.recipe.allows_pickle)

    def _write(self, handed: Sequence[Handed], group: Group) -> None:
        first, last = self._number(()), self._number(handed[:-1])
        target = self._target(last)
        try:
            added = write_pass(handed, target)
        except SurgeryError as error:
            numbers = f"{first} to {last}" if last > first else f"{last}"
            names = ", ".join(step.surgery for step in group[: len(handed)])
            raise self._named(error, last, group[len(handed) - 1], (numbers, names)) from error
        written = json.loads((target / "surgery.json").read_text(encoding="utf-8"))
        documents, papers = documents_of(handed, first), papers_of(handed, written, first)
        documents[-1] |= added
        if last > first:
            for row in (documents, papers):
                mark_verified(row, first)
        self._done(documents, papers, target)

    def _alone(self, step: RecipeStep) -> None:
        number = self._number(())
        target = self._target(number)
        try:
            document = self.call(step, self.source, target, overwrite=False)
        except SurgeryError as error:
            raise self._named(error, number, step) from error
        papers = json.loads((target / "surgery.json").read_text(encoding="utf-8"))
        self._done([document], [papers], target)

    def _done(
        self, documents: list[dict[str, Any]], papers: list[dict[str, Any]], target: Path
    ) -> None:
        if self.documents:  # nothing reads it again, and a model is large
            shutil.rmtree(self.source)
        before = len(self.documents)
        self.passes.append(list(range(before + 1, before + len(documents) + 1)))
        self.documents += documents
        self.papers += papers
        self.source = target

    def _number(self, handed: Sequence[Handed]) -> int:
        return len(self.documents) + len(handed) + 1

    def _target(self, number: int) -> Path:
        return self.scratch / f"step-{number}"

    def _named(
        self,
        error: SurgeryError,
        number: int,
        step: RecipeStep,
        together: tuple[str, str] | None = None,
    ) -> SurgeryError:
        """The same error, of this step; a result that was kept for study moves beside the output.

        together: numbers and names of the steps, where it is of all of a pass.
        """
        hint, target, output = error.hint, self._target(number), Path(self.recipe.output)
        failed = target.with_name(f"{target.name}.failed")
        if isinstance(error, VerificationError) and failed.is_dir():
            kept = output.with_name(f"{output.name}.failed")
            with suppress(OSError):  # one of an earlier run may be there
                failed.rename(kept)
                hint = f"the result of step {number} is kept in {kept}"
        if together is None:
            return type(error)(f"step {number} ({step.surgery}): {error.message}", hint)
        if isinstance(error, VerificationError):
            hint = f"{hint}; --no-fuse verifies each step by itself"
        numbers, names = together
        return type(error)(f"steps {numbers} ({names}) in one pass: {error.message}", hint)
