"""The options of `push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Output = Annotated[
    Path, typer.Argument(metavar="OUT", help="A directory that another command has written.")
]
Repository = Annotated[
    str, typer.Argument(metavar="REPO_ID", help="owner/name; made where there is none.")
]
Private = Annotated[
    bool,
    typer.Option(
        "--private/--public", help="Who sees it. A repository that is there stays as it is."
    ),
]
CreatePr = Annotated[
    bool, typer.Option("--create-pr", help="Propose it as a pull request against main.")
]
Revision = Annotated[
    str | None,
    typer.Option(metavar="BRANCH", help="Made where there is none. [default: main]"),
]
Message = Annotated[
    str | None, typer.Option("--message", metavar="TEXT", help="Title of the commit.")
]
Unverified = Annotated[
    bool,
    typer.Option(
        "--unverified", help="Push a result that did not pass verification; the card says so."
    ),
]
IHavePermission = Annotated[
    bool,
    typer.Option(
        "--i-have-permission",
        help="Push although the card's licence forbids derivatives: its owner allowed it.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="List what would go where; no request is made.")
]
