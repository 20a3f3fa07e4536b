"""A Hub id → a local snapshot of one commit, with only the files that are needed.

Everything goes through huggingface_hub, so HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from normsurgery.checkpoint.files import exists, read_small
from normsurgery.checkpoint.layout import (
    INDEX,
    PICKLE,
    PICKLE_INDEX,
    SINGLE,
    check_listing,
    is_other_weights,
)
from normsurgery.checkpoint.text import shown
from normsurgery.errors import CheckpointError, HubError, ResourceError, SurgeryError
from normsurgery.nearest import path_hint

_CARD = "README.md"
_MAX_CARD = 100_000_000  # bytes
_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[^@\s]+))?")
_ONLINE = "check the connection and HF_ENDPOINT; HF_HUB_OFFLINE=1 uses what is in the cache"


def parse_id(model: str) -> tuple[str, str | None]:
    """Split `owner/name[@revision]`. Raises CheckpointError for what looks like a path."""
    found = _ID.fullmatch(model)
    if not found or model.startswith((".", "-", "~")):
        raise CheckpointError(
            f"{shown(model)} is neither a directory nor a Hub id",
            f"a Hub id is owner/name or owner/name@revision; {path_hint(Path(model))}",
        )
    return found["id"], found["revision"]


def fetch(repository: str, revision: str | None, *, allow_pickle: bool) -> tuple[Path, str]:
    """Snapshot directory and commit of a model, downloaded where it is not in the cache yet.

    Raises HubError with the reason: gated, absent, no such revision, offline, unreachable.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    name = repository if revision is None else f"{repository}@{revision}"
    with _hub_errors(name, revision):
        if constants.HF_HUB_OFFLINE:
            directory = _cached(repository, revision)
        else:
            siblings = HfApi().model_info(repository, revision=revision).siblings or []
            files = [file.rfilename for file in siblings]
            top = [file for file in files if "/" not in file]
            check_listing(repository, top, allow_pickle=allow_pickle)
            patterns = [_escaped(file) for file in needed(files, allow_pickle=allow_pickle)]
            directory = Path(
                snapshot_download(repository, revision=revision, allow_patterns=patterns)
            )
    return directory, directory.name


def source_card(model: str) -> str:
    """The card of a directory or of a Hub id, fetched alone; empty where there is none.

    Raises HubError with the reason where the Hub does not answer.
    """
    path = Path(model).expanduser()
    if not exists(path):
        path = _fetched_card(*parse_id(model)) or path
    elif path.is_dir():
        path = path / _CARD
    if not path.is_file():
        return ""
    return read_small(path, _MAX_CARD).decode("utf-8", "surrogateescape")


def _fetched_card(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    name = repository if revision is None else f"{repository}@{revision}"
    with _hub_errors(name, revision):
        if constants.HF_HUB_OFFLINE:
            return _cached(repository, revision) / _CARD
        try:
            return Path(hf_hub_download(repository, _CARD, revision=revision))
        except RemoteEntryNotFoundError:
            return None


def needed(files: Iterable[str], *, allow_pickle: bool) -> list[str]:
    """The files of a repository that make one checkpoint: weights once, and the side files."""
    listed = sorted(files)
    shards = _weight_files(listed, allow_pickle=allow_pickle)
    return [
        file
        for file in listed
        if file in shards or not (is_other_weights(file) or file.startswith(".git"))
    ]


def _weight_files(listed: list[str], *, allow_pickle: bool) -> set[str]:
    stems = [(SINGLE, INDEX, r"model-\d+-of-\d+\.safetensors")]
    if allow_pickle:
        stems.append((PICKLE, PICKLE_INDEX, r"pytorch_model-\d+-of-\d+\.bin"))
    for single, index, shard in stems:
        if index in listed and single not in listed:
            return {index} | {file for file in listed if re.fullmatch(shard, file)}
        if single in listed:
            return {single}
    return set()


def _cached(repository: str, revision: str | None) -> Path:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", revision=revision)
    if not isinstance(found, str):
        raise HubError(
            f"{repository} is not in the cache, and HF_HUB_OFFLINE is set",
            "unset HF_HUB_OFFLINE to download it",
        )
    return Path(found).parent


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


@contextmanager
def _hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line and one hint."""
    from huggingface_hub import errors

    try:
        with _connection_errors(name):
            yield
    except errors.GatedRepoError:
        raise HubError(
            f"{name} is gated: its owner grants access person by person",
            f"ask for access at huggingface.co/{name.split('@')[0]}, then `hf auth login`",
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{name} is not on the Hub, or is private",
            "nor is there such a directory; a private model needs HF_TOKEN or `hf auth login`",
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(
            f"{name.split('@')[0]} has no revision {revision}", "name a branch, a tag or a commit"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise HubError(f"{name} cannot be fetched offline", "unset HF_HUB_OFFLINE") from None
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", "no status")
        raise HubError(f"the Hub answered {status} for {name}", _ONLINE) from None
    except errors.HFValidationError:
        raise HubError(f"{name} is not a valid Hub id", "ids are owner/name") from None
    except errors.LocalEntryNotFoundError:
        raise HubError(f"the Hub could not be reached for {name}", _ONLINE) from None


@contextmanager
def _connection_errors(name: str) -> Iterator[None]:
    """What does not come from the Hub: the network, and the disk under the cache."""
    from huggingface_hub import errors

    try:
        yield
    except (SurgeryError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled):
        raise
    except (ConnectionError, TimeoutError):
        raise HubError(f"the Hub could not be reached for {name}", _ONLINE) from None
    except OSError as error:
        raise ResourceError(
            f"{name} could not be stored in the cache: {error.strerror}",
            "free some disk, or set HF_HOME to a larger one",
        ) from None
    except Exception as error:
        # huggingface_hub lets its HTTP client's own errors through, and has changed client twice
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "requests"):
            raise
        raise HubError(f"the Hub could not be reached for {name}", _ONLINE) from None
