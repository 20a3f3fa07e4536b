"""`normsurgery arrange`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.interrupt import interruptible
from normsurgery.cli.trust import announce_code
from normsurgery.report.next_steps import Asked


def arrange(
    model: o.Model,
    output: o.Output,
    blocks: o.Blocks,
    stack: o.Stack = None,
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
    """Reorder, repeat, leave out or add blocks (lossy, or exact).

    The result opens in the source's class. What config.json says of single blocks (windows,
    layer types, which ones hold experts) moves with them; an order that the class cannot express
    is refused. Adding zero blocks, which do nothing until they are trained, is exact; everything
    else is lossy.

    \b
    Examples:
      normsurgery arrange openai-community/gpt2 -o out --blocks 0-7,zero,8-11
      normsurgery arrange ./my-model -o ./out --blocks 0-3,8-11 --dry-run
      normsurgery arrange ./my-whisper -o out --stack encoder --blocks 0,1,3
    """
    announce_code(model, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with interruptible(output), working() as progress:
        result = normsurgery.arrange(
            model,
            output,
            blocks=blocks,
            stack=stack,
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
