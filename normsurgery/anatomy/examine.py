"""Examine a checkpoint: its class, its twin, its names, its anatomy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.model import Anatomy
from normsurgery.anatomy.names import NameMap, map_names, tied_names
from normsurgery.anatomy.norms import find_norms
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.stream import read_anatomy
from normsurgery.anatomy.trace import trace
from normsurgery.anatomy.twin import (
    Examples,
    Twin,
    build_twin,
    load_config,
    meta_model,
    model_class_of,
)
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import CheckpointError


@dataclass(frozen=True)
class Examination:
    """What is known of a checkpoint before anything is done to it.

    config: its transformers configuration. names: its tensors on disk ↔ parameters in memory.
    code_files: Python files of a remote-code checkpoint.
    """

    config: Any
    model_class: type
    twin: Twin
    names: NameMap
    anatomy: Anatomy
    code_files: tuple[Path, ...] = ()


@single_thread()
def examine(
    checkpoint: Checkpoint,
    *,
    trust_remote_code: bool = False,
    tie: bool | None = None,
    examples: Examples | None = None,
) -> Examination:
    """Read a checkpoint's anatomy off its twin; only headers of the real weights are read.

    tie: overrides `tie_word_embeddings` (for a checkpoint that is being untied). examples: where
    the twin's inputs come from (see `build_twin`).
    Raises UnsupportedModelError or CheckpointError as the parts do.
    """
    directory = checkpoint.directory
    config = load_config(directory, trust_remote_code=trust_remote_code)
    if tie is not None:
        config.tie_word_embeddings = tie
    model_class = model_class_of(directory, config, trust_remote_code=trust_remote_code)
    full = meta_model(model_class, config)
    twin = build_twin(model_class, config, examples=examples)
    names = map_names(full, checkpoint, twin=twin.model)
    _check_shapes(checkpoint, names, full)
    remote = not model_class.__module__.startswith("transformers.")
    code = tuple(sorted(directory.glob("*.py"))) if remote else ()
    return Examination(config, model_class, twin, names, anatomy_of(twin), code)


def anatomy_of(twin: Twin) -> Anatomy:
    """Trace the twin and read its anatomy."""
    model = twin.model
    norms = find_norms(model, twin.shapes)
    with Float64():
        recorded = trace(model, twin.inputs, norms=set(norms))
    tied: dict[str, tuple[str, ...]] = {}
    for name, first in tied_names(model).items():
        if name != first:
            tied[first] = (*tied.get(first, ()), name)
    return read_anatomy(
        recorded, norms, class_name=type(model).__name__,
        modules=[name for name, _ in model.named_modules()],
        parameters=[name for name, _ in model.named_parameters()], tied=tied,
    )  # fmt: skip


def _check_shapes(checkpoint: Checkpoint, names: NameMap, full: Any) -> None:
    state = full.state_dict()
    for name in (*names.parts, *names.joins):
        expected = tuple(names.value(name, state).shape)
        found = checkpoint[name].shape
        if found != expected:
            raise CheckpointError(
                f"{name} has shape {list(found)}, but config.json asks for {list(expected)}",
                "config.json and the weight files do not belong together",
            )


def save_twin(examination: Examination, directory: Path) -> None:
    """Write the twin as a checkpoint in the real one's own dialect: same names, same layout."""
    from safetensors.torch import save_file

    directory.mkdir()
    twin = examination.twin
    state = twin.model.state_dict()
    names = examination.names
    tensors = {
        name: names.value(name, state).detach().clone().contiguous()
        for name in (*names.parts, *names.joins)
        if names.held_by(name) <= set(state)  # a module a head: the twin has fewer heads
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    text = twin.model.config.to_json_string(use_diff=False)
    (directory / "config.json").write_text(text, encoding="utf-8")
    for file in examination.code_files:
        (directory / file.name).write_bytes(file.read_bytes())
