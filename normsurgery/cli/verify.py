"""`normsurgery verify`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working
from normsurgery.cli.trust import announce_code
from normsurgery.report.next_steps import Asked


def verify(
    reference: o.Reference,
    candidate: o.Candidate,
    contract: o.Contract = "exact",
    data: o.Data = None,
    tokens: o.Tokens = 2048,
    max_length: o.MaxLength = None,
    dtype: o.RunDType = None,
    against_float64: o.AgainstFloat64 = False,
    linearity: o.Linearity = False,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    json: o.Json = False,
    traceback: o.Traceback = False,
    trust_remote_code: o.TrustRemoteCode = False,
    allow_pickle: o.AllowPickle = False,
) -> None:
    """Compare two checkpoints: logits, loss, text, load report.

    Ends with exit code 6 when the candidate does not keep its contract.

    \b
    Examples:
      normsurgery verify openai-community/gpt2 ./gpt2-rms
      normsurgery verify ./my-model ./out --dtype float64 --against-float64
      normsurgery verify ./my-model ./out --data held-out.txt --tokens 4096 --json
      normsurgery verify ./model ./norm-free --contract trained --linearity
    """
    announce_code(reference, candidate, trusted=trust_remote_code, allow_pickle=allow_pickle)
    with working() as progress:
        result = normsurgery.verify(
            reference,
            candidate,
            data=data,
            tokens=tokens,
            max_length=max_length,
            dtype=dtype,
            device=device,
            against_float64=against_float64,
            linearity=linearity,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            contract=contract,
            seed=seed,
            progress=progress,
        )
    asked = Asked(
        reference, candidate, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    show(result.to_dict(), as_json=json, asked=asked)
