"""Options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normsurgery.choices import (
    BatchNormFormName,
    ContractName,
    DTypeName,
    HealName,
    MethodName,
    ObjectiveName,
    RotationName,
    SubstituteName,
    TargetName,
    ToName,
    TrainName,
)
from normsurgery.cli import complete

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A directory, or a Hub id such as openai-community/gpt2@main.",
        autocompletion=complete.models,
    ),
]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="REFERENCE",
        help="The original: a directory or a Hub id.",
        autocompletion=complete.models,
    ),
]
Candidate = Annotated[
    str,
    typer.Argument(
        metavar="CANDIDATE",
        help="What was made of it: a directory or a Hub id.",
        autocompletion=complete.models,
    ),
]
Recipe = Annotated[
    Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe to run, or a surgery.json.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace one value of the recipe, such as source=DIR or steps.0.target=graft.",
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="The directory to write.",
        autocompletion=complete.outputs,
    ),
]
To = Annotated[ToName, typer.Option(help="The norm that LayerNorm becomes.")]
Target = Annotated[
    TargetName,
    typer.Option(
        help="What the result loads in: native is another class of transformers that has RMSNorm "
        "(OLMo becomes Llama), stock the source's own, graft a modeling file beside the weights; "
        "auto chooses and says why."
    ),
]
FoldAffine = Annotated[
    bool, typer.Option("--fold-affine", help="Fold γ and β into the linears that read the norm.")
]
Untie = Annotated[bool, typer.Option("--untie", help="Give a tied head a table of its own.")]
What = Annotated[
    str,
    typer.Option(
        "--what",
        "-w",
        metavar="FOLDS",
        autocompletion=complete.word_list(complete.FOLDS),
        help="One or more, with commas: norm, layerscale, image-norm, value-bias, key-bias, "
        "query-scale, mup, weight-norm, rotate; or recalibrate.",
    ),
]
FoldData = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        metavar="PATH",
        help="Text to verify on; for recalibrate: images, .wav, .npy or .npz. "
        "[default: a public-domain sample]",
    ),
]
Example = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An image, .wav, .npy or .npz to trace the model with, where its inputs cannot be "
        "made up from config.json.",
    ),
]
Original = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="ORIGINAL",
        autocompletion=complete.models,
        help="For recalibrate without labels: what the model was made from.",
    ),
]
Rotation = Annotated[RotationName, typer.Option(help="The orthogonal matrices of rotate.")]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Convert only what lies in this module, such as vision_model."
    ),
]
Drop = Annotated[
    str,
    typer.Option(
        metavar="WHAT", help="How many blocks (3, 25%), or which ones (4,9 or 5-7, counted from 0)."
    ),
]
ScoreMethod = Annotated[
    MethodName | None,
    typer.Option(
        help="What chooses the blocks where they are not named: a score, or trial, which fits "
        "a few cuts on a part of the text. [default: trial where something is fitted, else angular]"
    ),
]
Iterative = Annotated[
    bool,
    typer.Option(
        "--iterative",
        help="Drop one block, measure again, drop the next: they need not be neighbours.",
    ),
]
Explain = Annotated[
    bool,
    typer.Option("--explain", help="Show the scores of every run of blocks; includes --plots."),
]
Substitute = Annotated[
    SubstituteName,
    typer.Option(
        help="What stands in for dropped blocks, fitted in the block before each gap: nothing; "
        "ReplaceMe's linear map; its writers refitted; or these with its heads and neurons "
        "exchanged for dropped ones that serve better."
    ),
]
Objective = Annotated[ObjectiveName, typer.Option(help="What ReplaceMe's linear map minimizes.")]
Heal = Annotated[
    HealName, typer.Option(help="Refit the writers of every later block in order, no gradients.")
]
OtherData = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Another domain to report losses on. [default: public-domain drama]"
    ),
]
CalibrationTokens = Annotated[
    int, typer.Option("--tokens", min=2, help="How many tokens of it to measure and fit to.")
]
Blocks = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        help="The blocks in order, such as 0-7,zero,8-11: numbers from 0, ranges, and zero for "
        "one that does nothing yet.",
    ),
]
Stack = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which row of blocks, where there are several: encoder, decoder, vision, or its path.",
    ),
]
BatchNormForm = Annotated[
    BatchNormFormName,
    typer.Option(
        help="What is written: keep has the source's names and shapes, with norms that only add; "
        "native switches the norms off in the source's own class, where its configuration can; "
        "graft has no norms, merges parallel convolutions and comes with a modeling file."
    ),
]
DType = Annotated[
    DTypeName | None, typer.Option(help="Storage dtype of the result. [default: the source's]")
]
RunDType = Annotated[
    DTypeName | None,
    typer.Option("--dtype", help="Compare in this dtype. [default: the reference's own]"),
]
MaxShardSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Such as 5GB. [default: the source's shard boundaries]"),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto, cpu, cuda or cuda:N.",
        autocompletion=complete.one_of(complete.DEVICES),
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        metavar="FILE",
        help="Text to verify on; images, .wav or .npz (a file or a folder) where the model reads "
        "these. [default: a public-domain text, or random inputs]",
    ),
]
Tokens = Annotated[int, typer.Option(min=1, help="How many tokens of it to compare.")]
MaxLength = Annotated[int | None, typer.Option(min=2, help="Tokens per sequence. [default: 256]")]
Teacher = Annotated[
    str,
    typer.Option(
        metavar="ORIGINAL",
        help="What the model was made from: a directory or a Hub id.",
        autocompletion=complete.models,
    ),
]
Train = Annotated[
    TrainName,
    typer.Option(
        help="What trains: adapters on every linear of the blocks, merged before writing; the "
        "head, the final norm and the last three blocks; or everything."
    ),
]
TextData = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        metavar="TEXT",
        help="Text to read: a .txt, .jsonl, .parquet or .csv file, or a data set of the Hub. "
        "[default: a public-domain sample]",
    ),
]
TextColumn = Annotated[
    str, typer.Option(metavar="NAME", help="The column, or JSON key, that holds the text.")
]
TrainingTokens = Annotated[
    int, typer.Option("--tokens", min=2, help="How many tokens of it to take; a tenth is held out.")
]
RowLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        min=2,
        help="Tokens per row. [default: what the model reads, at most 512]",
    ),
]
CalibrationLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        min=2,
        help="Tokens per row. [default: what the model reads, at most 2048]",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps. [default: 100]")]
Epochs = Annotated[
    float | None, typer.Option(min=0.0, help="Passes over the text, in place of --steps.")
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        help="Highest learning rate of the cosine schedule. "
        "[default: 1e-3 for lora, 3e-4 for head+last3, 1e-4 for full]",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows per batch, in each process.")]
GradientAccumulation = Annotated[int, typer.Option(min=1, help="Batches per optimizer step.")]
GradientCheckpointing = Annotated[
    bool,
    typer.Option(
        "--gradient-checkpointing", help="Less memory, more time: run blocks again going back."
    ),
]
Bf16 = Annotated[
    bool | None,
    typer.Option(
        "--bf16/--no-bf16",
        help="Compute in bfloat16, weights in float32. [default: where the device has it]",
    ),
]
CrossEntropy = Annotated[float, typer.Option("--ce", min=0.0, help="Weight of the cross-entropy.")]
Divergence = Annotated[
    float, typer.Option("--kl", min=0.0, help="Weight of the KL from the original's predictions.")
]
Hidden = Annotated[
    float,
    typer.Option(min=0.0, help="Weight of the error of the stream after each block that is kept."),
]
Temperature = Annotated[float, typer.Option(help="Of both predictions in the KL.")]
LoraRank = Annotated[int, typer.Option(min=1, help="Rank of the adapters.")]
SaveEvery = Annotated[
    int | None,
    typer.Option(min=1, help="Steps between points to resume from. [default: a tenth of the run]"),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that was interrupted, if there is one.")
]
Linearity = Annotated[
    bool,
    typer.Option(
        "--linearity",
        help="The candidate's logits must be the sum of its blocks' contributions, to 1e-5: what a "
        "final norm forbids.",
    ),
]
AgainstFloat64 = Annotated[
    bool, typer.Option("--against-float64", help="Run the reference in float64, as the truth.")
]
Contract = Annotated[
    ContractName, typer.Option(help="What the candidate promises, and so what is allowed.")
]
Verify = Annotated[bool, typer.Option(help="Verify the saved files before they move into place.")]
Fuse = Annotated[
    bool,
    typer.Option(
        "--fuse/--no-fuse", help="Exact steps in a row are one pass; or each is written, verified."
    ),
]
KeepFailed = Annotated[
    bool, typer.Option("--keep-failed", help="Keep a result that fails verification, set aside.")
]
AllowNonfinite = Annotated[
    bool, typer.Option("--allow-nonfinite", help="Go on although weights hold NaN or Inf.")
]
Health = Annotated[
    bool, typer.Option("--health", help="Read every weight: count NaN, Inf and all-zero tensors.")
]
Plots = Annotated[
    bool,
    typer.Option(
        "--plots", help="Draw what was measured into OUT/plots (PNG, SVG), and show it in the card."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", "-f", help="Replace OUT once the new one is complete.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", "-n", help="Print the plan, write nothing."),
]
Seed = Annotated[int, typer.Option(help="For everything drawn at random.")]
Json = Annotated[
    bool,
    typer.Option("--json", "-j", help="Print one JSON document and no report."),
]
Traceback = Annotated[
    bool,
    typer.Option("--traceback", help="Show where an error came from."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run the checkpoint's own modeling files; they are named first."
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read .bin weights (weights_only)."),
]
