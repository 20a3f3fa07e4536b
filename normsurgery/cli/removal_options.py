"""Options of `remove-ln` alone."""

from __future__ import annotations

from typing import Annotated

import typer

from normsurgery.choices import ExportName, ReportName, TeacherName
from normsurgery.cli import complete

Finetune = Annotated[
    bool,
    typer.Option("--finetune", help="Train while the norms go, one path after the other."),
]
OneShot = Annotated[
    bool,
    typer.Option(
        "--one-shot", help="Freeze every norm at its calibrated scale at once, without training."
    ),
]
Schedule = Annotated[
    str,
    typer.Option(
        metavar="auto|NAME|FILE",
        autocompletion=complete.one_of(complete.SCHEDULES),
        help="When each norm goes and how it trains: auto, from the model's size and the tokens; "
        "gpt2, gpt2-medium, gpt2-large or gpt2-xl, as published; or a YAML file.",
    ),
]
Sites = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        autocompletion=complete.word_list(complete.SITES),
        help="Which norms go, of mlp, attention, final and inner (norms of queries, keys and "
        "other values within a sublayer). Fewer than the first three need --export partial.",
    ),
]
Export = Annotated[
    ExportName,
    typer.Option(
        help="What the result loads in: graft has no norm left and a modeling file of its own; "
        "stock is the source's class, its norms made to divide by a constant; partial is a graft "
        "that keeps the norms that were not asked for."
    ),
]
Control = Annotated[
    bool | None,
    typer.Option(
        "--control/--no-control",
        help="Give the untouched model the same fine-tuning, to compare with. "
        "[default: where it costs at most 1e16 operations]",
    ),
]
Teacher = Annotated[
    TeacherName | None,
    typer.Option(
        help="Whose predictions the model is held to while its norms go. "
        "[default: the control, where it runs and the schedule is auto]"
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="How many tokens to train on; a tenth of the text is held out. [default: 3,000,000, "
        "a published schedule's own number, or 50,000 without --finetune]",
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option("--lr", help="Highest learning rate. [default: the schedule's]"),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows per batch, in each process.")]
GradientAccumulation = Annotated[
    int | None,
    typer.Option(
        min=1, help="Batches per optimizer step. [default: 1, or what the schedule's step takes]"
    ),
]
ReportTo = Annotated[
    ReportName, typer.Option(help="Where the training is logged, beside the terminal.")
]
