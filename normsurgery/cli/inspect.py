"""`normsurgery inspect`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.trust import announce_code
from normsurgery.report.next_steps import Asked


def inspect(
    model: o.Model,
    health: o.Health = False,
    json: o.Json = False,
    traceback: o.Traceback = False,
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
) -> None:
    """Show what a model is made of and what applies to it.

    Reads headers only, so it answers for 200 GB as it does for 2 MB; --health reads the weights.

    \b
    Examples:
      normsurgery inspect openai-community/gpt2
      normsurgery inspect ./my-model --health
      normsurgery inspect ./my-model --json | jq '.surgeries'
    """
    announce_code(model, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with working() as progress:
        result = normsurgery.inspect(
            model,
            health=health,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    asked = Asked(model, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    show(result.to_dict(), as_json=json, asked=asked)
