"""`normsurgery doctor`."""

from __future__ import annotations

import normsurgery
from normsurgery.cli import options as o
from normsurgery.cli.console import show, working


def doctor(
    json: o.Json = False,
    traceback: o.Traceback = False,
) -> None:
    """Show versions, devices, disk, memory, and problems.

    Reads no model and asks no server. Exit code 0, with or without problems.

    \b
    Examples:
      normsurgery doctor
      normsurgery doctor --json | jq '.problems'
    """
    with working():
        result = normsurgery.doctor()
    show(result.to_dict(), as_json=json)
