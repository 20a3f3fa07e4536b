"""From what the user named to a checked Checkpoint."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from normsurgery.checkpoint import unsupported
from normsurgery.checkpoint.checkpoint import Checkpoint
from normsurgery.checkpoint.files import check_inside, exists, listed, read_small, walk
from normsurgery.checkpoint.layout import (
    INDEX,
    PICKLE_INDEX,
    Weights,
    check_listing,
    is_other_weights,
    read_weights,
)
from normsurgery.checkpoint.text import parse_object, shown
from normsurgery.errors import CheckpointError

MAX_CONFIG_BYTES = 16 << 20  # the largest real ones, with id2label of ImageNet-21k, are 2 MB
_CONFIG = "config.json"
_LAYER_COUNT = re.compile(r"(n|num)_.*layer.*|(.*_)?layers", re.IGNORECASE)
_SNAPSHOT = re.compile(r"models--(.+)")


def open_checkpoint(model: str | Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open a directory, or a Hub id `owner/name[@revision]`; reads headers only.

    allow_pickle: read `.bin` weights where there are no safetensors, with torch's weights_only.
    Raises CheckpointError for anything malformed or of an unsupported kind, HubError for the Hub.
    """
    path = Path(model).expanduser()
    if exists(path):
        return open_directory(path, allow_pickle=allow_pickle)
    from normsurgery.checkpoint.hub import fetch, parse_id

    repository, revision = parse_id(str(model))
    directory, commit = fetch(repository, revision, allow_pickle=allow_pickle)
    return open_directory(
        directory, allow_pickle=allow_pickle, model_id=repository, revision=commit
    )


def open_directory(
    path: Path,
    *,
    allow_pickle: bool = False,
    model_id: str | None = None,
    revision: str | None = None,
) -> Checkpoint:
    """Open a directory; model_id and revision are the Hub's, where it came from there."""
    if not path.is_dir():
        raise unsupported.refuse_path(path)
    directory = path.resolve()
    names = listed(directory)
    cached_id, cached_commit = _identity(directory)
    title = shown(model_id or cached_id)
    unsupported.check_format(title, names)
    raw, config = _config(directory, title)
    unsupported.check_config(config)
    check_listing(title, names, allow_pickle=allow_pickle)
    weights = read_weights(directory)
    tensors = {name: t for shard in weights.shards for name, t in shard.tensors.items()}
    if not tensors:
        raise CheckpointError(
            f"{shown(weights.shards[0].name)} holds no tensors", "download the weights again"
        )
    unsupported.check_names(tensors)
    _check_layer_counts(config, len(tensors))
    side, left_out = _other_files(directory, weights)
    return Checkpoint(
        directory=directory,
        config=config,
        model_id=model_id or cached_id,
        revision=revision or cached_commit,
        shards={name: shard.name for shard in weights.shards for name in shard.tensors},
        side_files=side,
        left_out=left_out,
        sources=weights.shards,
        tensors=tensors,
        source_config=raw,
        source_index=weights.index,
    )


def _identity(directory: Path) -> tuple[str, str | None]:
    """Id and commit of a snapshot in the Hub's cache; else the directory's name and None."""
    found = _SNAPSHOT.fullmatch(directory.parent.parent.name)
    if found and directory.parent.name == "snapshots":
        return found.group(1).replace("--", "/"), directory.name
    return directory.name, None


def _config(directory: Path, title: str) -> tuple[bytes, dict[str, Any]]:
    path = directory / _CONFIG
    hint = "take config.json from where the model came from"
    if not exists(path):
        raise CheckpointError(f"{title} has no {_CONFIG}", hint)
    check_inside(path, directory)
    raw = read_small(path, MAX_CONFIG_BYTES)
    return raw, parse_object(raw, _CONFIG, hint)


def _check_layer_counts(config: dict[str, Any], tensors: int) -> None:
    for key, value in _integers(config):
        if _LAYER_COUNT.fullmatch(key) and value > tensors:
            raise CheckpointError(
                f"{_CONFIG} claims {shown(f'{value:,}')} layers ({shown(key)}), "
                f"but the files hold {tensors:,} tensors",
                "take config.json from where the model came from",
            )


def _integers(document: Any) -> Iterator[tuple[str, int]]:
    pending = [document]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            pending += part.values()
            yield from ((k, v) for k, v in part.items() if type(v) is int)
        elif isinstance(part, list):
            pending += part


def _other_files(directory: Path, weights: Weights) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files to carry over, and files left out; each carried one is a regular file inside."""
    own = {shard.name for shard in weights.shards} | {_CONFIG}
    own |= {INDEX, PICKLE_INDEX} if weights.index is not None else set()
    side, left_out = [], []
    for name in walk(directory):
        if name in own:
            continue
        if is_other_weights(name):
            left_out.append(name)
            continue
        _check_side_file(directory, name)
        side.append(name)
    return tuple(side), tuple(left_out)


def _check_side_file(directory: Path, name: str) -> None:
    check_inside(directory / name, directory)
    try:
        mode = (directory / name).stat().st_mode
    except OSError:
        raise CheckpointError(
            f"{shown(name)} is a link to nothing", "remove it, or put the file there"
        ) from None
    if not stat.S_ISREG(mode):
        raise CheckpointError(
            f"{shown(name)} is neither a file nor a directory",
            "remove it, or put the file itself there",
        )
