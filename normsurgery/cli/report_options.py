"""The options of `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normsurgery.cli import complete

Result = Annotated[
    Path, typer.Argument(metavar="OUT", help="A directory that another command has written.")
]
Page = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="The page. [default: OUT.report.html beside OUT]"
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", "-f", help="Replace a page that exists.")]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        metavar="N",
        min=1,
        help="Let original and result go on from N pieces of text. [default: the samples that the "
        "surgery took]",
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="TEXT", help="Go on from this text; may be repeated."),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        metavar="FILE",
        help="Text for --samples; or images, whose classes by both models are shown. [default: a "
        "public-domain sample]",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="The original: a directory or a Hub id. [default: what surgery.json names on the Hub]",
        autocompletion=complete.models,
    ),
]
