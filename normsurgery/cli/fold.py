"""`normsurgery fold`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.interrupt import interruptible
from normsurgery.cli.trust import announce_code
from normsurgery.report.next_steps import Asked


def fold(
    model: o.Model,
    output: o.Output,
    what: o.What,
    untie: o.Untie = False,
    rotation: o.Rotation = "hadamard",
    dtype: o.DType = None,
    max_shard_size: o.MaxShardSize = None,
    plots: o.Plots = False,
    overwrite: o.Overwrite = False,
    verify: o.Verify = True,
    data: o.FoldData = None,
    reference: o.Original = None,
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
    """Fold gains, biases, norms' γ and β into weights (exact).

    The result opens in the source's class and computes the same. norm: γ and β into the linears
    that read a norm. layerscale: per-channel gains into the linear before them. image-norm: the
    image processor's mean and deviation into the patch convolution. value-bias: through attention
    into the output bias. key-bias: set to zero where no score feels it. query-scale, mup: numbers
    of config.json into weights. weight-norm: baked. rotate: an orthogonal rotation of the stream.
    Several are done in one pass; what a fold has to leave is named with the reason.
    recalibrate stands alone (fitted): BatchNorm statistics measured anew on --data.

    \b
    Examples:
      normsurgery fold meta-llama/Llama-3.2-1B -o out --what norm --untie
      normsurgery fold ./my-llama -o out --what norm,rotate
      normsurgery fold ./my-granite -o out --what mup,query-scale
      normsurgery fold ./my-dinov2 -o out --what layerscale,norm --dry-run
      normsurgery fold ./pruned -o out --what recalibrate --data ./images
    """
    announce_code(model, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with interruptible(output), working() as progress:
        result = normsurgery.fold(
            model,
            output,
            what=what,
            untie=untie,
            rotation=rotation,
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
            reference=reference,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            plots=plots,
            progress=progress,
        )
    asked = Asked(model, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    show(result.to_dict(), as_json=json, asked=asked)
