"""`normsurgery prune`."""

from __future__ import annotations

import os

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.interrupt import MEASURED, interruptible
from normsurgery.cli.trust import announce_code
from normsurgery.report.next_steps import Asked


def prune(
    model: o.Model,
    output: o.Output,
    drop: o.Drop,
    stack: o.Stack = None,
    method: o.ScoreMethod = None,
    iterative: o.Iterative = False,
    explain: o.Explain = False,
    substitute: o.Substitute = "none",
    objective: o.Objective = "squares",
    heal: o.Heal = "none",
    data: o.TextData = None,
    text_column: o.TextColumn = "text",
    tokens: o.CalibrationTokens = 65_536,
    max_length: o.CalibrationLength = None,
    other_data: o.OtherData = None,
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
    """Drop blocks, and fit what stays to what went (lossy, fitted).

    Which blocks go is said, or measured on text; --substitute and --heal fit what stays, without
    training (`normsurgery heal` trains). The result opens in the source's class. The report has
    the loss of original, plain drop and result on text that nothing was fitted to: of the
    calibration's domain and of another.

    \b
    Examples:
      normsurgery prune ./my-model -o out --drop 25% --explain
      normsurgery prune ./my-model -o out --drop 3 --data text.jsonl
      normsurgery prune ./my-model -o out --drop 25% --heal sequential
      normsurgery prune ./my-model -o out --drop 5-7 --substitute replaceme
      normsurgery prune openai/whisper-tiny -o out --stack encoder --drop 1,2
      accelerate launch -m normsurgery prune ./my-model -o out --drop 8
    """
    announce_code(model, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with interruptible(output, MEASURED), working() as progress:
        result = normsurgery.prune(
            model,
            output,
            drop=drop,
            stack=stack,
            method=method,
            iterative=iterative,
            explain=explain,
            substitute=substitute,
            objective=objective,
            heal=heal,
            data=data,
            text_column=text_column,
            tokens=tokens,
            max_length=max_length,
            other_data=other_data,
            dtype=dtype,
            device=device,
            dry_run=dry_run,
            overwrite=overwrite,
            seed=seed,
            max_shard_size=max_shard_size,
            verify=verify,
            keep_failed=keep_failed,
            allow_nonfinite=allow_nonfinite,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            plots=plots,
            progress=progress,
        )
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one speaks
        asked = Asked(model, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
        show(result.to_dict(), as_json=json, asked=asked)
