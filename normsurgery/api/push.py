"""`push`: a result's files to a repository of the Hub."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normsurgery.api.result import Result
from normsurgery.checkpoint.text import shown
from normsurgery.errors import CheckpointError, UsageError
from normsurgery.report.front_matter import split
from normsurgery.report.progress import Progress, Silent
from normsurgery.version import VERSION

if TYPE_CHECKING:
    from normsurgery.hub.outputs import Output
    from normsurgery.hub.send import Destination, Sent

_UNVERIFIED = (
    "> [!WARNING]\n"
    "> **Uploaded without a passing verification** (`--unverified`; what verification said: "
    "{verdict}). Nobody has shown that these weights keep the contract below.\n"
)


class PushResult(Result):
    """What `push` sent (or, on a dry run, would send), as a document."""


def push(
    output: str | Path,
    repository: str,
    *,
    private: bool = True,
    create_pr: bool = False,
    revision: str | None = None,
    message: str | None = None,
    unverified: bool = False,
    i_have_permission: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PushResult:
    """Upload an output of another command to the Hub, as one commit.

    output: a directory with our surgery.json. repository: `owner/name`, or a name of your own;
    it is made where there is none, and keeps its visibility where there is one. revision: a
    branch, made where there is none. unverified: push although verification did not pass; the
    card that is uploaded says so. i_have_permission: push although the card's licence forbids
    derivatives. dry_run: no request is made.
    Raises UsageError for options that contradict each other and for a refused licence,
    CheckpointError for what is no output of ours, or has changed since it was written, HubError
    for what the Hub refuses.
    """
    from normsurgery.hub.outputs import check_unchanged, read_output
    from normsurgery.hub.send import Destination, send

    started = time.monotonic()
    shower = progress or Silent()
    check_request(repository, revision, create_pr=create_pr, dry_run=dry_run)
    found = read_output(output)
    _check_verdict(found, unverified=unverified)
    licence = check_licence(found.card, permitted=i_have_permission)
    check_unchanged(found, shower)
    said = message or f"Upload the result of normsurgery {found.papers.get('command', '')}".strip()
    to = Destination(repository, revision, private, create_pr, said)
    sent = None if dry_run else send(found, partial(_card, found, to.revision), to, shower)
    where = _where(sent, to)
    card = _card(found, to.revision, where["repository"])
    document = {
        "command": "push",
        "version": VERSION,
        "output": str(output),
        "source": found.papers.get("source"),
        "surgery": found.papers.get("command"),
        "verdict": found.verdict,
        "licence": licence,
        "message": said,
        "dry_run": dry_run,
        **where,
        **_what(found, card),
        "seconds": round(time.monotonic() - started, 3),
    }
    return PushResult(document)


def _what(found: Output, card: bytes) -> dict[str, Any]:
    """The files that go with their sizes, and those that stay with the reason."""
    sizes = {name: found.size(name) for name in found.names} | {"README.md": len(card)}
    return {
        "files": [{"name": name, "bytes": sizes[name]} for name in found.names],
        "bytes": sum(sizes.values()),
        "left": [{"name": name, "why": why} for name, why in found.left.items()],
    }


def _where(sent: Sent | None, to: Destination) -> dict[str, Any]:
    """Where the files are; on a dry run, where they would go, as far as that can be known."""
    keys = ("repository", "revision", "commit", "url", "private", "created", "unchanged",
            "pull_request", "removed")  # fmt: skip
    if sent is not None:
        return {key: getattr(sent, key) for key in keys}
    planned = {"repository": to.repository, "revision": to.revision or "main"}
    return {**dict.fromkeys(keys), **planned, "private": to.private, "removed": []}


def check_request(repository: str, revision: str | None, *, create_pr: bool, dry_run: bool) -> None:
    """Raise UsageError for what cannot be asked for, HubError where we are offline."""
    from huggingface_hub import constants
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    from normsurgery.hub.errors import offline

    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise UsageError(
            f"{shown(repository)} is not a valid Hub id", "ids are owner/name"
        ) from None
    if create_pr and revision not in (None, "main"):
        raise UsageError(
            "a pull request is always against main", "leave out --revision or --create-pr"
        )
    if constants.HF_HUB_OFFLINE and not dry_run:
        raise offline(repository)


def _check_verdict(found: Output, *, unverified: bool) -> None:
    if found.verdict == "pass" or unverified:
        return
    said = {"skipped": "was not verified", "fail": "failed verification"}
    raise CheckpointError(
        f"{shown(found.directory)} {said.get(found.verdict, 'has no verdict of a verification')}",
        "run the surgery again without --no-verify; --unverified pushes it all the same, and the "
        "card says so",
    )


def check_licence(card: str, *, permitted: bool) -> dict[str, str | None]:
    """The card's licence. Raises UsageError where it forbids what we are about to do."""
    from normsurgery.hub.licence import licence_of

    licence = licence_of(card)
    words = licence.against_derivatives()
    if words is not None and not permitted:
        raise UsageError(
            f"the card's licence ({shown(words)}) forbids passing on a changed work",
            "ask the owner; --i-have-permission pushes once you have been allowed to",
        )
    return licence.to_dict()


def _card(found: Output, revision: str | None, repository: str) -> bytes:
    """The card to upload.

    The lines that load it name the repository, unless they would load another branch than the one
    it lies on. Where verification did not pass, a warning stands under the front matter.
    """
    from normsurgery.report.card import at_home

    card = at_home(found.card, repository) if revision in (None, "main") else found.card
    if found.verdict != "pass":
        body = split(card)[1]
        head = card[: len(card) - len(body)]
        card = f"{head}\n{_UNVERIFIED.format(verdict=found.verdict)}\n{body.lstrip()}"
    return card.encode("utf-8", "surrogateescape")
