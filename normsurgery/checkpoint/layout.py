"""Which files of a directory hold the weights, and which tensor lies in which of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normsurgery.checkpoint import unsupported
from normsurgery.checkpoint.files import check_inside, exists, read_small
from normsurgery.checkpoint.safetensors_file import read_header
from normsurgery.checkpoint.shard import Shard
from normsurgery.checkpoint.tensor import LazyTensor
from normsurgery.checkpoint.text import parse_object, shown
from normsurgery.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_MAX_INDEX_BYTES = 100_000_000
_DAMAGED = "download the index and the shards again"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


@dataclass(frozen=True)
class Weights:
    """The weight files in order, and the bytes of the index if there is one."""

    shards: tuple[Shard, ...]
    index: bytes | None = None


def check_listing(title: str, names: Collection[str], *, allow_pickle: bool) -> None:
    """Raise CheckpointError if these files cannot be one checkpoint with weights that we read.

    names: what lies at the top. Looks at names only, so that the Hub's listing is enough.
    """
    unsupported.check_format(title, names)
    if INDEX in names or SINGLE in names:
        return
    if PICKLE_INDEX in names or PICKLE in names:
        if allow_pickle:
            return
        raise CheckpointError(
            f"{title} holds its weights as pickles only ({PICKLE})",
            "--allow-pickle reads them with torch's weights_only unpickler",
        )
    shards = [name for name in names if _SHARD.fullmatch(name)]
    if shards:
        raise CheckpointError(f"{title} holds {len(shards)} shards but no {INDEX}", _DAMAGED)
    raise unsupported.no_weights(title, names)


def read_weights(directory: Path) -> Weights:
    """The weights as transformers would find them: safetensors first, then pickles.

    Raises CheckpointError for every disagreement between the index and the files.
    """
    if exists(directory / INDEX) or exists(directory / SINGLE):
        return _weights(directory, SINGLE, INDEX, ".safetensors", _safetensors_shard)
    from normsurgery.checkpoint.pickle_file import pickle_shard

    return _weights(directory, PICKLE, PICKLE_INDEX, ".bin", pickle_shard)


def _weights(
    directory: Path, single: str, index: str, suffix: str, read: Callable[[Path], Shard]
) -> Weights:
    if not exists(directory / index):
        check_inside(directory / single, directory)
        return Weights((read(directory / single),))
    check_inside(directory / index, directory)
    raw = read_small(directory / index, _MAX_INDEX_BYTES)
    claims = _weight_map(raw, index, suffix)
    files = sorted(set(claims.values()))
    if exists(directory / single) and single not in files:
        raise CheckpointError(
            f"both {single} and {index} are there, and the index names other files",
            "remove the one that is not the model",
        )
    shards = []
    for name in files:
        check_inside(directory / name, directory)
        if not exists(directory / name):
            raise CheckpointError(
                f"{shown(name)} is missing, but {index} names it", "download that shard again"
            )
        shards.append(read(directory / name))
    _check_claims(claims, shards, index)
    return Weights(tuple(shards), raw)


def _weight_map(raw: bytes, index: str, suffix: str) -> dict[str, str]:
    document = parse_object(raw, index, _DAMAGED, unique=True, twice="claims {} twice")
    claims: Any = document.get("weight_map")
    if not isinstance(claims, dict) or not claims:
        raise CheckpointError(f"{index} has no weight_map of tensors to files", _DAMAGED)
    for tensor, name in claims.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{index}: {shown(tensor)} is not mapped to a file", _DAMAGED)
        if not _is_plain(name):
            raise CheckpointError(
                f"{index}: {shown(tensor)} is said to be in {shown(name)}, outside the directory",
                "an honest index names files beside it: do not use this checkpoint",
            )
        if not name.endswith(suffix):
            raise CheckpointError(
                f"{index}: {shown(tensor)} is said to be in {shown(name)}, not a {suffix} file",
                _DAMAGED,
            )
    return claims


def _is_plain(name: str) -> bool:
    return bool(name) and name.isprintable() and not set(name) & set("/\\:") and name[0] != "."


def _check_claims(claims: Mapping[str, str], shards: list[Shard], index: str) -> None:
    """Each shard holds just the tensors that the index says, so no tensor is there twice."""
    for shard in shards:
        for tensor in shard.tensors:
            claimed = claims.get(tensor)
            if claimed is None:
                raise CheckpointError(
                    f"{shown(shard.name)} holds {shown(tensor)}, which {index} does not list",
                    _DAMAGED,
                )
            if claimed != shard.name:
                raise CheckpointError(
                    f"{shown(tensor)} is in {shown(shard.name)}, but {index} says it is in "
                    f"{shown(claimed)}", _DAMAGED,
                )  # fmt: skip
    held = {tensor for shard in shards for tensor in shard.tensors}
    for tensor, name in claims.items():
        if tensor not in held:
            raise CheckpointError(
                f"{shown(name)} lacks {shown(tensor)}, which {index} says it holds", _DAMAGED
            )


def _safetensors_shard(path: Path) -> Shard:
    header = read_header(path)
    tensors = {
        name: LazyTensor.from_file(entry.dtype, entry.shape, entry.range, name)
        for name, entry in header.tensors.items()
    }
    return Shard(path.name, path, tensors, header.metadata, header)


# the same weights again: in another format, of another framework, or of an earlier training step
_WEIGHTS_ANYWHERE = re.compile(
    r".*\.(gguf|ggml|onnx|onnx_data|onnx\.data|h5|msgpack|ckpt|tflite|ot|mlmodel|pth|pt)"
)
_WEIGHTS_AT_TOP = re.compile(
    r"[^/]*\.(safetensors|safetensors\.index\.json)|(pytorch_model|consolidated|ggml)[^/]*\.bin"
    r"|[^/]*\.bin\.index\.json"
)
_WEIGHT_DIRECTORIES = re.compile(
    r"(original|metal|onnx|openvino|coreml|gguf|tflite|checkpoint-\d+|global_step\d+)/.*"
)


def is_other_weights(name: str) -> bool:
    """Whether a file that is not part of the weights read holds weights nevertheless."""
    return any(
        pattern.fullmatch(name)
        for pattern in (_WEIGHTS_ANYWHERE, _WEIGHTS_AT_TOP, _WEIGHT_DIRECTORIES)
    )
