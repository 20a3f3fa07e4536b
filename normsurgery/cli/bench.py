"""`normsurgery bench`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import bench_options as b
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.trust import announce_code


def bench(
    models: b.Models,
    batch: b.Batch = "1",
    length: b.Length = "128",
    new_tokens: b.NewTokens = 32,
    repeats: b.Repeats = 10,
    compile: b.Compile = "none",
    dtype: b.BenchDType = None,
    device: o.Device = "auto",
    threads: b.Threads = None,
    memory: b.Memory = True,
    data: b.Samples = None,
    seed: o.Seed = 0,
    json: o.Json = False,
    traceback: o.Traceback = False,
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
) -> None:
    """Measure speed and memory of models beside each other.

    The first model is what the others are compared with.

    Runs take turns (A B, B A, …), so that what disturbs the machine disturbs all;
    ratios come with 95 % intervals.

    \b
    Examples:
      normsurgery bench openai-community/gpt2 ./gpt2-rms
      normsurgery bench MODEL OUT --batch 1,4 --length 128,512 --new-tokens 32
      normsurgery bench MODEL OUT --compile eager+compiled --device cuda --json
    """
    announce_code(*models, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with working() as progress:
        result = normsurgery.bench(
            *models,
            batch=b.numbers(batch, "--batch"),
            length=b.numbers(length, "--length"),
            new_tokens=new_tokens,
            repeats=repeats,
            compile=compile,
            dtype=dtype,
            device=device,
            threads=threads,
            memory=memory,
            data=data,
            seed=seed,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    show(result.to_dict(), as_json=json)
