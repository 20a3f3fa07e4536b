"""`normsurgery eval`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import bench_options as b
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.trust import announce_code


def eval(
    reference: o.Reference,
    candidate: o.Candidate,
    tasks: b.Tasks = "",
    data: o.TextData = None,
    text_column: o.TextColumn = "text",
    tokens: b.TextTokens = 65_536,
    max_length: o.CalibrationLength = None,
    num_fewshot: b.Shots = None,
    limit: b.Limit = None,
    batch_size: b.TaskRows = 1,
    chat_template: b.ChatTemplate = False,
    include_path: b.IncludePath = None,
    dtype: o.RunDType = None,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    json: o.Json = False,
    traceback: o.Traceback = False,
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
) -> None:
    """Score two language models on benchmark tasks and on text.

    Perplexity is measured where --data is given, or no task is.

    \b
    Examples:
      normsurgery eval openai-community/gpt2 ./out
      normsurgery eval MODEL OUT --data held-out.txt
      normsurgery eval MODEL OUT --tasks lambada_openai,gsm8k --limit 200
    """
    announce_code(reference, candidate, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with working() as progress:
        result = normsurgery.eval(
            reference,
            candidate,
            tasks=tuple(name for name in tasks.split(",") if name),
            data=data,
            text_column=text_column,
            tokens=tokens,
            max_length=max_length,
            num_fewshot=num_fewshot,
            limit=limit,
            batch_size=batch_size,
            chat_template=chat_template,
            include_path=include_path,
            dtype=dtype,
            device=device,
            seed=seed,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    show(result.to_dict(), as_json=json)
