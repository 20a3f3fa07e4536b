"""Options of `bench` and `eval` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from normsurgery.choices import DTypeName
from normsurgery.cli import complete
from normsurgery.errors import UsageError

CompileName: TypeAlias = Literal["none", "eager+compiled"]

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="Directories or Hub ids, the yardstick first.",
        autocompletion=complete.models,
    ),
]
Batch = Annotated[str, typer.Option(metavar="LIST", help="Rows at once, such as 1,4.")]
Length = Annotated[
    str, typer.Option(metavar="LIST", help="Tokens of a row before the new ones, such as 128,512.")
]
NewTokens = Annotated[int, typer.Option(min=2, help="Tokens to write after them.")]
Repeats = Annotated[
    int, typer.Option(min=1, help="Rounds that count; fewer than 6 give no interval.")
]
Compile = Annotated[
    CompileName, typer.Option(help="Measure the models as they are, or also through torch.compile.")
]
BenchDType = Annotated[
    DTypeName | None,
    typer.Option("--dtype", help="Run all in this dtype. [default: the first one's own]"),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of the CPU. [default: torch's choice]")
]
Memory = Annotated[
    bool, typer.Option(help="Measure peak memory, each model in a process of its own.")
]
Samples = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Images, .wav, .npy or .npz for models that read these. [default: made-up inputs]",
    ),
]
Tasks = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        help="Tasks of lm-evaluation-harness, with commas. Needs normsurgery[eval].",
    ),
]
TextTokens = Annotated[
    int, typer.Option("--tokens", min=2, help="How many tokens of the text to take.")
]
Shots = Annotated[
    int | None, typer.Option(min=0, help="Examples in each prompt. [default: the task's own]")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Samples of each task. [default: all]")]
TaskRows = Annotated[int, typer.Option("--batch-size", min=1, help="Samples of a task at once.")]
ChatTemplate = Annotated[
    bool, typer.Option("--chat-template", help="Put prompts into the model's chat template.")
]
IncludePath = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A directory with tasks of your own, as the harness has it."),
]


def numbers(text: str, option: str) -> tuple[int, ...]:
    """`1,4` as numbers; UsageError where it is anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r} is no list of numbers", f"{option} 1,4") from None
