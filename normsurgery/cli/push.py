"""`normsurgery push`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli import push_options as p
from normsurgery.cli.console import show, working
from normsurgery.cli.interrupt import resumable

GOES_ON = "the same command goes on: what has arrived is not sent twice"


def push(
    output: p.Output,
    repository: p.Repository,
    private: p.Private = True,
    create_pr: p.CreatePr = False,
    revision: p.Revision = None,
    message: p.Message = None,
    unverified: p.Unverified = False,
    i_have_permission: p.IHavePermission = False,
    dry_run: p.DryRun = False,
    json: o.Json = False,
    traceback: o.Traceback = False,
) -> None:
    """Upload a verified result to the Hub, as one commit.

    Only the files that surgery.json explains go; the rest is named and stays. Run it again
    after an interruption: what has arrived is not sent twice.

    \b
    Examples:
      normsurgery push ./gpt2-rms my-name/gpt2-rms --dry-run
      normsurgery push ./gpt2-rms my-name/gpt2-rms
      normsurgery push ./gpt2-rms my-name/gpt2-rms --public --revision v2
      normsurgery push ./gpt2-rms their/model --public --create-pr
    """
    with working() as progress, resumable(GOES_ON):
        result = normsurgery.push(
            output,
            repository,
            private=private,
            create_pr=create_pr,
            revision=revision,
            message=message,
            unverified=unverified,
            i_have_permission=i_have_permission,
            dry_run=dry_run,
            progress=progress,
        )
    show(result.to_dict(), as_json=json)
