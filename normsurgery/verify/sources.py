"""Which model stands in a directory: its class, its storage dtype, its size, its task.

Knows config.json and safetensors headers; loads no weights.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from normsurgery.anatomy.classes import named_class
from normsurgery.errors import CheckpointError, UsageError
from normsurgery.nearest import choices_hint

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_HEADER_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint directory, and the class to load it in.

    model_class: None picks the class that config.json names. trust_remote_code allows the
    directory's own modeling file (its class is used directly and never registered, so that later
    untrusted loads in this process keep getting the stock class).
    """

    directory: Path
    model_class: type | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False


def dtype_named(name: str) -> torch.dtype:
    """The torch dtype of that name; UsageError lists the names that exist."""
    try:
        return DTYPES[name]
    except KeyError:
        raise UsageError(f"unknown dtype {name!r}", choices_hint(name, DTYPES)) from None


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def read_config(directory: Path) -> dict[str, Any]:
    """config.json as a dictionary; CheckpointError where there is none or it is not an object."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "is this a checkpoint?") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object", "is this a checkpoint?")
    return config


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights: the index's shards, else model.safetensors, else *.bin."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(
                f"{index} cannot be read: {error!r}", "download it again"
            ) from None
        return [directory / name for name in names]
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    return sorted(directory.glob("pytorch_model*.bin"))


def weight_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in weight_files(directory) if file.is_file())


def stored_dtype(directory: Path) -> torch.dtype:
    """The floating dtype that most of the stored weights have, by bytes.

    Pickled weights are not opened: config.json's dtype is believed there.
    """
    from safetensors import SafetensorError, safe_open

    sizes: Counter[str] = Counter()
    for file in weight_files(directory):
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():
                    view = handle.get_slice(name)
                    sizes[view.get_dtype()] += max(1, _count(view.get_shape()))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}", "download it again") from None
    known = [name for name, _ in sizes.most_common() if name in _HEADER_DTYPES]
    if known:
        return _HEADER_DTYPES[known[0]]
    config = read_config(directory)
    return DTYPES.get(str(config.get("dtype", config.get("torch_dtype"))), torch.float32)


def _count(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def class_of(source: ModelSource) -> Any:
    """The class whose `from_pretrained` loads this source.

    The given class; else the directory's own modeling file when that is trusted; else the class
    that config.json's architectures[0] names in transformers; else AutoModel.
    """
    import transformers

    if source.model_class is not None:
        return source.model_class
    named = named_class(
        source.directory,
        read_config(source.directory),
        trust_remote_code=source.trust_remote_code,
    )
    return transformers.AutoModel if named is None else named


def tasks_of(model_class: Any) -> set[str]:
    """The transformers tasks (such as CAUSAL_LM) that this class or a base class of it serves."""
    from transformers.models.auto import modeling_auto

    names = {base.__name__ for base in getattr(model_class, "__mro__", ())}
    tasks = set()
    for attribute, table in vars(modeling_auto).items():
        if attribute.startswith("MODEL_") and attribute.endswith("MAPPING_NAMES"):
            served = {n for v in table.values() for n in ((v,) if isinstance(v, str) else v)}
            if names & served:
                tasks.add(attribute.removeprefix("MODEL_FOR_").removesuffix("_MAPPING_NAMES"))
    return tasks - {"PRETRAINING"}


def check_comparable(reference: ModelSource, candidate: ModelSource) -> None:
    """Raise UsageError where the two cannot be compared: other vocabulary, task or modality."""
    first, second = class_of(reference), class_of(candidate)
    tasks = tasks_of(first), tasks_of(second)
    if all(tasks) and not tasks[0] & tasks[1]:
        raise UsageError(
            f"different tasks: the reference is {first.__name__}, the candidate {second.__name__}",
            "compare two checkpoints of one task",
        )
    modalities = [getattr(c, "main_input_name", None) for c in (first, second)]
    if all(modalities) and modalities[0] != modalities[1]:
        raise UsageError(
            f"different modalities: {modalities[0]} against {modalities[1]}",
            "compare two checkpoints of one modality",
        )
    sizes = [_vocabulary(read_config(s.directory)) for s in (reference, candidate)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise UsageError(
            f"different vocabularies: {sizes[0]} tokens against {sizes[1]}",
            "compare two checkpoints of one vocabulary",
        )


def _vocabulary(config: dict[str, Any]) -> int | None:
    nested = config.get("text_config")
    inner = nested if isinstance(nested, dict) else config
    size = inner.get("vocab_size", config.get("vocab_size"))
    return size if isinstance(size, int) else None
