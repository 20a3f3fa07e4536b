"""`normsurgery run`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working


def run(
    recipe: o.Recipe,
    overrides: o.Set = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    traceback: o.Traceback = False,
) -> None:
    """Run a recipe: a source, its steps, an output.

    \b
    Examples:
      normsurgery run recipes/gpt2-to-rmsnorm.yaml
      normsurgery run recipes/gpt2-to-rmsnorm.yaml --set source=./my-gpt2 --set output=./out
      normsurgery run recipes/gpt2-to-rmsnorm.yaml --dry-run
    """
    with working() as progress:
        result = normsurgery.run(
            recipe, overrides=tuple(overrides or ()), dry_run=dry_run, progress=progress
        )
    show(result.to_dict(), as_json=json)
