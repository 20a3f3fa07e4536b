"""`normsurgery convert`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.interrupt import interruptible
from normsurgery.cli.trust import announce_code
from normsurgery.report.next_steps import Asked


def convert(
    model: o.Model,
    output: o.Output,
    to: o.To = "rmsnorm",
    target: o.Target = "auto",
    fold_affine: o.FoldAffine = False,
    untie: o.Untie = False,
    part: o.Part = None,
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
    """Turn LayerNorm into RMSNorm with the same outputs (exact).

    The result computes what the source computes. By default it opens in the source's own class,
    and with trust_remote_code=True as a model without LayerNorm on the stream: one checkpoint,
    two ways in, the same logits. Where a class of transformers that has RMSNorm holds the model
    at no cost, it becomes a model of that class (--target native asks for one at any cost).

    \b
    Examples:
      normsurgery convert openai-community/gpt2 -o gpt2-rms
      normsurgery convert ./my-model -o ./out --dry-run
      normsurgery convert allenai/OLMo-1B-hf -o olmo-llama --target native
      normsurgery convert ./my-model -o out --fold-affine --dtype bfloat16
    """
    announce_code(model, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with interruptible(output), working() as progress:
        result = normsurgery.convert(
            model,
            output,
            to=to,
            target=target,
            fold_affine=fold_affine,
            untie=untie,
            part=part,
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
