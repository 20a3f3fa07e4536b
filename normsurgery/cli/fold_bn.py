"""`normsurgery fold-bn`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.interrupt import interruptible
from normsurgery.cli.trust import announce_code
from normsurgery.report.next_steps import Asked


def fold_bn(
    model: o.Model,
    output: o.Output,
    form: o.BatchNormForm = "keep",
    example: o.Example = None,
    dtype: o.DType = None,
    max_shard_size: o.MaxShardSize = None,
    overwrite: o.Overwrite = False,
    verify: o.Verify = True,
    data: o.Data = None,
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
    """Fold BatchNorm into convolutions and linears (exact).

    At inference a BatchNorm is a scale and a shift per channel. Which one folds into what is found
    by running a tiny twin of the model; what cannot fold is named with its reason. The result is
    for inference: training mode would take new statistics and destroy it.

    \b
    Examples:
      normsurgery fold-bn microsoft/resnet-50 -o resnet-folded
      normsurgery fold-bn microsoft/resnet-50 -o resnet-lean --form graft
      normsurgery fold-bn ./my-detector -o ./out --dtype float16 --dry-run
      normsurgery fold-bn ./my-model -o ./out --example photo.png
    """
    announce_code(model, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with interruptible(output), working() as progress:
        result = normsurgery.fold_bn(
            model,
            output,
            form=form,
            example=example,
            dtype=dtype,
            device=device,
            dry_run=dry_run,
            overwrite=overwrite,
            seed=seed,
            max_shard_size=max_shard_size,
            verify=verify,
            keep_failed=keep_failed,
            allow_nonfinite=allow_nonfinite,
            data=data,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    asked = Asked(model, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    show(result.to_dict(), as_json=json, asked=asked)
