"""`normsurgery card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import normsurgery
from normsurgery.cli import complete
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working, write


def _print_template(wanted: bool) -> None:
    """Needs no OUT, so it comes before the arguments are looked at."""
    if wanted:
        from normsurgery.report.template import shipped_template

        write(shipped_template().removesuffix("\n"))
        raise typer.Exit


Output = Annotated[
    Path,
    typer.Argument(
        metavar="OUT",
        help="A directory that another command has written.",
        autocompletion=complete.models,
    ),
]
Template = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A template of yours. [default: the one that is shipped]"),
]
PrintTemplate = Annotated[
    bool,
    typer.Option(
        "--print-template",
        callback=_print_template,
        is_eager=True,
        help="Print the shipped template, to start your own from, and do nothing else.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Print the card and write nothing.")]


def card(
    output: Output,
    template: Template = None,
    print_template: PrintTemplate = False,
    dry_run: DryRun = False,
    json: o.Json = False,
    traceback: o.Traceback = False,
) -> None:
    """Render a result's README.md again, from a template.

    Only our section between its two marks is made anew. What you wrote around it or in the
    front matter stays, and so does the source's own card.

    \b
    Examples:
      normsurgery card ./gpt2-rms --print-template > card.md
      normsurgery card ./gpt2-rms --template card.md --dry-run
      normsurgery card ./gpt2-rms --template card.md
    """
    with working() as progress:
        result = normsurgery.card(output, template=template, dry_run=dry_run, progress=progress)
    document = result.to_dict()
    if dry_run and not json:
        write(document["card"].removesuffix("\n"))
    else:
        show(document, as_json=json)
