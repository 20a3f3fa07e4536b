"""`normsurgery report`."""

from __future__ import annotations

import typer

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli import report_options as r
from normsurgery.cli.console import show, working
from normsurgery.cli.trust import announce_code
from normsurgery.errors import CheckpointError


def report(
    result: r.Result,
    output: r.Page = None,
    overwrite: r.Overwrite = False,
    samples: r.Samples = None,
    prompts: r.Prompt = None,
    data: r.Data = None,
    source: r.Source = None,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    json: o.Json = False,
    traceback: o.Traceback = False,
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
) -> None:
    """Write a result's report as one HTML page.

    Tables, pictures, samples, receipts: the page holds all and loads nothing. Hashes every file;
    ends with exit code 3 where one is not what surgery.json describes, which the page says too.

    \b
    Examples:
      normsurgery report ./gpt2-rms
      normsurgery report ./gpt2-rms -o page.html --overwrite
      normsurgery report ./gpt2-rms --source openai-community/gpt2 --samples 3
    """
    known = [str(model) for model in (source, result) if model is not None]
    announce_code(*known, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with working() as progress:
        written = normsurgery.report(
            result,
            output=output,
            overwrite=overwrite,
            samples=samples,
            prompts=tuple(prompts or ()),
            data=data,
            source=source,
            device=device,
            seed=seed,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    document = written.to_dict()
    show(document, as_json=json)
    if not document["unchanged"]:
        raise typer.Exit(CheckpointError.exit_code)
