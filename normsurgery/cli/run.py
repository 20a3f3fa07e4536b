"""`normsurgery run`."""

from __future__ import annotations

import os
from pathlib import Path

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.interrupt import interruptible, kept_by_recipe
from normsurgery.cli.trust import announce_code
from normsurgery.errors import NotPushedError
from normsurgery.recipe import read_recipe
from normsurgery.report.next_steps import Asked, push_line


def run(
    recipe: o.Recipe,
    overrides: o.Set = None,
    dry_run: o.DryRun = False,
    fuse: o.Fuse = True,
    json: o.Json = False,
    traceback: o.Traceback = False,
) -> None:
    """Run a recipe: a source, its steps, an output.

    Steps run in order, exact ones that follow one another in one pass over the disk. The output
    appears whole or not at all; with `push: owner/name` it then goes to the Hub. Every result holds
    its recipe in surgery.json, which runs too and makes the same bytes again (training apart).

    \b
    Examples:
      normsurgery run recipes/gpt2-to-rmsnorm.yaml
      normsurgery run recipes/gpt2-to-rmsnorm.yaml --set source=./my-gpt2
      normsurgery run recipes/llama-minus-quarter.yaml --set steps.0.drop=8
      normsurgery run recipes/prune-and-heal.yaml --dry-run
      normsurgery run recipes/gpt2-to-rmsnorm.yaml --set push=my-name/gpt2-rms
      normsurgery run OUT/surgery.json --set source=SOURCE --set output=AGAIN
    """
    changes = tuple(overrides or ())
    checked = read_recipe(recipe, changes)
    for model in checked.models:
        announce_code(model, trusted=checked.trusts_code, allow_pickle=checked.allows_pickle)
    kept = kept_by_recipe([step.surgery for step in checked.steps])
    then = push_line(checked.output, checked.push) if checked.push else ""
    asked = Asked(
        checked.source, trust_remote_code=checked.trusts_code, allow_pickle=checked.allows_pickle
    )
    try:
        with interruptible(Path(checked.output), kept, then), working() as progress:
            result = normsurgery.run(
                recipe, overrides=changes, dry_run=dry_run, fuse=fuse, progress=progress
            )
    except NotPushedError as error:
        if not json:  # the work is done, and its report is worth hours
            show(error.document, as_json=False, asked=asked)
        raise
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one speaks
        show(result.to_dict(), as_json=json, asked=asked)
