"""`normsurgery remove-ln`."""

from __future__ import annotations

import os

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli import removal_options as r
from normsurgery.cli.console import show, working
from normsurgery.cli.interrupt import REMOVED, interruptible
from normsurgery.cli.trust import announce_code
from normsurgery.report.next_steps import Asked


def remove_ln(
    model: o.Model,
    output: o.Output,
    finetune: r.Finetune = False,
    one_shot: r.OneShot = False,
    data: o.TextData = None,
    text_column: o.TextColumn = "text",
    other_data: o.OtherData = None,
    tokens: r.Tokens = None,
    max_length: o.CalibrationLength = None,
    schedule: r.Schedule = "auto",
    sites: r.Sites = "mlp,attention,final",
    export: r.Export = "graft",
    control: r.Control = None,
    teacher: r.Teacher = None,
    lr: r.LearningRate = None,
    batch_size: r.BatchSize = 16,
    gradient_accumulation: r.GradientAccumulation = None,
    gradient_checkpointing: o.GradientCheckpointing = False,
    bf16: o.Bf16 = None,
    save_every: o.SaveEvery = None,
    resume: o.Resume = False,
    report_to: r.ReportTo = "none",
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
    """Train a language model to do without its norms (trained).

    Each LayerNorm or RMSNorm is replaced by a division by one frozen scalar, path after path, while
    the model trains; what is left is affine and folded into the linears that read it. With neither
    --finetune nor --one-shot it measures what would happen, and writes nothing.

    \b
    Examples:
      normsurgery remove-ln openai-community/gpt2 -o noln
      normsurgery remove-ln openai-community/gpt2 -o noln --finetune
      normsurgery remove-ln ./model -o noln --finetune --export stock
      accelerate launch -m normsurgery remove-ln ./model -o noln --finetune
    """
    announce_code(model, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with interruptible(output, REMOVED), working() as progress:
        result = normsurgery.remove_ln(
            model,
            output,
            finetune=finetune,
            one_shot=one_shot,
            data=data,
            text_column=text_column,
            other_data=other_data,
            tokens=tokens,
            max_length=max_length,
            schedule=schedule,
            sites=sites,
            export=export,
            control=control,
            teacher=teacher,
            lr=lr,
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            gradient_checkpointing=gradient_checkpointing,
            bf16=bf16,
            save_every=save_every,
            resume=resume,
            report_to=report_to,
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
