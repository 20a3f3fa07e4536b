"""One commit of an output's files: repository, branch, large files first, then the commit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from normsurgery.checkpoint.text import shown
from normsurgery.errors import HubError, UsageError
from normsurgery.hub.errors import push_errors
from normsurgery.hub.outputs import CARD, Output, changed_error
from normsurgery.hub.retry import REFUSED, retried
from normsurgery.report.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi

MAIN = "main"
_LARGE = 10_000_000  # bytes; smaller files go in one request, larger ones by themselves
# What transformers would load beside, or in place of, the weights that we send.
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")


@dataclass(frozen=True)
class Destination:
    """Where to: `owner/name` (or `name`, of the token's owner), a branch, or a pull request."""

    repository: str
    revision: str | None = None
    private: bool = True
    create_pr: bool = False
    message: str = "Upload"


@dataclass(frozen=True)
class Sent:
    """What is on the Hub now. removed: weight files of an earlier upload that went."""

    repository: str
    revision: str
    commit: str
    url: str
    private: bool
    created: bool
    unchanged: bool
    pull_request: str | None = None
    removed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Repository:
    """created: by us, just now. commit and files: of the branch, before we write."""

    name: str
    private: bool
    created: bool
    commit: str | None = None
    files: tuple[str, ...] = ()


def send(output: Output, card: Callable[[str], bytes], to: Destination, progress: Progress) -> Sent:
    """Upload an output as one commit, so that no half of a model is ever on a branch.

    card: the README.md to upload, given the repository's id. A file that has arrived is not sent
    again by a second call.
    Raises HubError with the reason, UsageError where a private upload would land in a public
    repository, CheckpointError where a file changed meanwhile.
    """
    from huggingface_hub import CommitOperationDelete, HfApi

    api = HfApi()
    with push_errors(to.repository):
        there = _repository(api, to)
        there = _branch(api, there, to)
        adding = _additions(output, card(there.name))
        _upload(api, there.name, adding, to, progress)
        _check_sent(output, adding)
        removed = [n for n in there.files if _WEIGHTS.fullmatch(n) and n not in output.names]
        commit = retried(
            lambda: api.create_commit(
                there.name,
                [*adding, *(CommitOperationDelete(name) for name in removed)],
                commit_message=to.message,
                revision=to.revision,
                create_pr=to.create_pr,
            ),
            # a second pull request would be worse than an error that asks to look
            **({"statuses": REFUSED} if to.create_pr else {}),
        )
    return _sent(api, there, commit, to, removed)


def _sent(
    api: HfApi, there: _Repository, commit: CommitInfo, to: Destination, removed: list[str]
) -> Sent:
    revision = (commit.pr_revision if commit.pr_url else to.revision) or MAIN
    home = f"{api.endpoint}/{there.name}"
    return Sent(
        repository=there.name,
        revision=revision,
        commit=commit.oid,
        url=commit.pr_url or (home if revision == MAIN else f"{home}/tree/{revision}"),
        private=there.private,
        created=there.created,
        unchanged=commit.oid == there.commit,
        pull_request=commit.pr_url,
        removed=removed,
    )


def _repository(api: HfApi, to: Destination) -> _Repository:
    """The repository, made where there is none.

    Raises UsageError for one that is public while a private upload was asked for.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    name = to.repository
    if "/" not in name:
        name = f"{retried(api.whoami)['name']}/{name}"
    try:
        found = retried(lambda: api.model_info(name))
    except RepositoryNotFoundError:
        made = retried(lambda: api.create_repo(name, private=to.private, repo_type="model"))
        return _Repository(made.repo_id, to.private, created=True)
    if to.private and not found.private:
        raise UsageError(
            f"{name} is public, and a push is private unless you say otherwise",
            "--public pushes there, for everyone to see; another name makes a private repository",
        )
    return _Repository(name, bool(found.private), False, found.sha, _files(found))


def _branch(api: HfApi, there: _Repository, to: Destination) -> _Repository:
    """The branch, made where there is none; a pull request (refs/pr/N) is there already."""
    if to.revision in (None, MAIN):
        return there
    branch = str(to.revision)
    if not branch.startswith("refs/"):
        retried(lambda: api.create_branch(there.name, branch=branch, exist_ok=True))
    found = retried(lambda: api.model_info(there.name, revision=branch))
    return _Repository(there.name, there.private, there.created, found.sha, _files(found))


def _files(found: Any) -> tuple[str, ...]:
    return tuple(file.rfilename for file in found.siblings or ())


def _additions(output: Output, card: bytes) -> list[CommitOperationAdd]:
    from huggingface_hub import CommitOperationAdd

    return [
        CommitOperationAdd(name, card if name == CARD else str(output.directory / name))
        for name in output.names
    ]


def _upload(
    api: HfApi, name: str, adding: Sequence[CommitOperationAdd], to: Destination, progress: Progress
) -> None:
    """Send what is too large for a commit. Raises HubError where a .gitignore keeps a file out."""
    total = sum(one.upload_info.size for one in adding)
    with progress.task("upload", total, "bytes") as advance:
        for batch in _batches(adding):
            api.preupload_lfs_files(
                name, batch, revision=to.revision, create_pr=to.create_pr, free_memory=False
            )
            advance(sum(one.upload_info.size for one in batch), batch[-1].path_in_repo)
    ignored = [one.path_in_repo for one in adding if getattr(one, "_should_ignore", False)]
    if ignored:
        raise HubError(
            f"the .gitignore of {name} keeps {shown(ignored[0])} out", "change it there, or push "
            "to another repository",
        )  # fmt: skip


def _batches(adding: Sequence[CommitOperationAdd]) -> Iterator[list[CommitOperationAdd]]:
    small = [one for one in adding if one.upload_info.size < _LARGE]
    if small:
        yield small
    yield from ([one] for one in adding if one.upload_info.size >= _LARGE)


def _check_sent(output: Output, adding: Sequence[CommitOperationAdd]) -> None:
    """Raise CheckpointError if a file is not, or was not when it was sent, what it was before."""
    hashes = output.hashes
    changed = [
        one.path_in_repo
        for one in adding
        if one.path_in_repo in hashes and one.upload_info.sha256.hex() != hashes[one.path_in_repo]
    ]
    if changed:
        raise changed_error(changed)
