"""The command table, and what `normsurgery` alone and `--version` print."""

from __future__ import annotations

from typing import Annotated

import typer

from normsurgery.cli.arrange import arrange
from normsurgery.cli.bench import bench
from normsurgery.cli.card import card
from normsurgery.cli.convert import convert
from normsurgery.cli.doctor import doctor
from normsurgery.cli.eval import eval
from normsurgery.cli.fold import fold
from normsurgery.cli.fold_bn import fold_bn
from normsurgery.cli.heal import heal
from normsurgery.cli.inspect import inspect
from normsurgery.cli.prune import prune
from normsurgery.cli.push import push
from normsurgery.cli.remove_ln import remove_ln
from normsurgery.cli.report import report
from normsurgery.cli.run import run
from normsurgery.cli.verify import verify
from normsurgery.cli.version import versions

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    suggest_commands=False,  # cli/usage.py does
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(inspect)
app.command()(convert)
app.command()(remove_ln)
app.command()(fold)
app.command()(fold_bn)
app.command()(prune)
app.command()(arrange)
app.command()(heal)
app.command()(verify)
app.command()(bench)
app.command()(eval)
app.command()(run)
app.command()(report)
app.command()(card)
app.command()(push)
app.command()(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(versions())
        raise typer.Exit


@app.callback(invoke_without_command=True)
def normsurgery(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print versions."),
    ] = False,
) -> None:
    """Rewrite a Hugging Face checkpoint, and prove what the rewrite did.

    \b
    Examples:
      normsurgery inspect openai-community/gpt2
      normsurgery convert openai-community/gpt2 -o gpt2-rms
      normsurgery prune ./my-model -o out --drop 25% --heal sequential

    \b
    Exit codes: 0 done, 1 unexpected, 2 usage or recipe, 3 bad checkpoint,
    4 unsupported model, 5 disk or memory, 6 verification failed, 7 Hub,
    130 interrupted.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
