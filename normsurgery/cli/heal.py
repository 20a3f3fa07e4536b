"""`normsurgery heal`."""

from __future__ import annotations

import os

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.interrupt import HEALED, interruptible
from normsurgery.cli.trust import announce_code
from normsurgery.report.next_steps import Asked


def heal(
    model: o.Model,
    output: o.Output,
    teacher: o.Teacher,
    train: o.Train = "lora",
    data: o.TextData = None,
    text_column: o.TextColumn = "text",
    tokens: o.TrainingTokens = 500_000,
    max_length: o.RowLength = None,
    steps: o.Steps = None,
    epochs: o.Epochs = None,
    lr: o.LearningRate = None,
    batch_size: o.BatchSize = 8,
    gradient_accumulation: o.GradientAccumulation = 1,
    gradient_checkpointing: o.GradientCheckpointing = False,
    bf16: o.Bf16 = None,
    ce: o.CrossEntropy = 1.0,
    kl: o.Divergence = 1.0,
    hidden: o.Hidden = 0.0,
    temperature: o.Temperature = 1.0,
    lora_rank: o.LoraRank = 16,
    save_every: o.SaveEvery = None,
    resume: o.Resume = False,
    dtype: o.DType = None,
    max_shard_size: o.MaxShardSize = None,
    plots: o.Plots = False,
    overwrite: o.Overwrite = False,
    verify: o.Verify = True,
    keep_failed: o.KeepFailed = False,
    allow_nonfinite: o.AllowNonfinite = False,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    traceback: o.Traceback = False,
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
) -> None:
    """Train a cut or rewritten model towards its original (trained).

    The loss is a weighted sum of cross-entropy, KL to the original and, where asked, the error of
    the stream after each block that is kept. What trained is written into the model's own files:
    names, shards and dtype stay. An interrupted run goes on with --resume, to the same weights.

    \b
    Examples:
      normsurgery heal ./cut -o healed --teacher ./original --data text.jsonl
      normsurgery heal ./cut -o healed --teacher ./original --train head+last3
      accelerate launch -m normsurgery heal ./cut -o healed --teacher ./original
    """
    announce_code(model, trusted=trust_remote_code, allow_pickle=allow_pickle)
    announce_code(teacher, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with interruptible(output, HEALED), working() as progress:
        result = normsurgery.heal(
            model,
            output,
            teacher=teacher,
            train=train,
            data=data,
            text_column=text_column,
            tokens=tokens,
            max_length=max_length,
            steps=steps,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            gradient_checkpointing=gradient_checkpointing,
            bf16=bf16,
            ce=ce,
            kl=kl,
            hidden=hidden,
            temperature=temperature,
            lora_rank=lora_rank,
            save_every=save_every,
            resume=resume,
            dtype=dtype,
            max_shard_size=max_shard_size,
            overwrite=overwrite,
            verify=verify,
            keep_failed=keep_failed,
            allow_nonfinite=allow_nonfinite,
            device=device,
            seed=seed,
            dry_run=dry_run,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            plots=plots,
            progress=progress,
        )
    if os.environ.get("RANK", "0") == "0":  # of several processes the main one speaks
        asked = Asked(model, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
        show(result.to_dict(), as_json=json, asked=asked)
