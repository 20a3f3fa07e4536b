"""Parameter names in memory ↔ tensor names on disk.

transformers renames on load (old prefixes, gamma/beta, `embed_out`), adds or strips the base
model's prefix, and for some families stacks or transposes tensors. The same functions that its
loader uses are asked here; where they stack or transpose, fingerprints (random values sent through
its own saving code) show which part of which parameter a tensor on disk is. Every tensor on disk
must be explained, and every parameter must be on disk: anything else is an error, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normsurgery.errors import CheckpointError, UnsupportedModelError


@dataclass(frozen=True)
class Part:
    """How a tensor on disk holds (part of) a parameter: `parameter[index]`, perhaps transposed."""

    parameter: str
    index: int | None = None
    transposed: bool = False

    def cut(self, value: Tensor) -> Tensor:
        """What stands on disk, given the parameter's value."""
        part = value if self.index is None else value[self.index]
        return part.transpose(0, 1) if self.transposed else part

    def axis(self, parameter_axis: int) -> int:
        """The axis on disk of an axis of the parameter."""
        axis = parameter_axis - (self.index is not None)
        return 1 - axis if self.transposed and axis < 2 else axis


@dataclass(frozen=True)
class NameMap:
    """parts: name on disk → what it holds. carried: names on disk that no parameter reads, and why.

    tied: parameter → the name its value is loaded under (itself, unless tied to another).
    """

    parts: Mapping[str, Part]
    carried: Mapping[str, str]
    tied: Mapping[str, str]

    def on_disk(self, parameter: str) -> list[tuple[str, Part]]:
        """Every tensor on disk that holds the parameter or one tied to it."""
        group = self.tied.get(parameter, parameter)
        return [
            (name, part)
            for name, part in self.parts.items()
            if self.tied.get(part.parameter, part.parameter) == group
        ]


def map_names(model: Any, on_disk: Iterable[str]) -> NameMap:
    """Explain every tensor name of a checkpoint by the parameters of `model`.

    model: of the checkpoint's class (the twin: its names are those of the real model).
    Raises CheckpointError for a tensor that nothing explains or a parameter that is missing.
    """
    tied = tied_names(model)
    rename = _Renamer(model)
    parts: dict[str, Part] = {}
    carried: dict[str, str] = {}
    for name in on_disk:
        part = rename.part(name)
        if part is not None:
            parts[name] = part
        else:
            carried[name] = rename.why_carried(name)
    present = {tied.get(part.parameter, part.parameter) for part in parts.values()}
    missing = [name for name in rename.needed if tied.get(name, name) not in present]
    if missing:
        raise CheckpointError(
            f"{_some(missing)} of {type(model).__name__} not in the checkpoint",
            "config.json and the weights do not belong together, or a download is incomplete",
        )
    return NameMap(parts, carried, tied)


def tied_names(model: Any) -> dict[str, str]:
    """Every parameter's name → the first name under which the same tensor is reached."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[name] = first.setdefault(id(parameter), name)
    return names


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{more}"


class _Renamer:
    """The loader's renaming rules of one model."""

    def __init__(self, model: Any) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self.model = model
        self.state: dict[str, Tensor] = model.state_dict()
        rules = get_model_conversion_mapping(model)
        self.renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self.converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self.saved: dict[str, Tensor] | None = None
        skippable = getattr(model, "_keys_to_ignore_on_load_missing", None) or []
        self.needed = [
            name
            for name, _ in model.named_parameters(remove_duplicate=False)
            if not any(re.search(pattern, name) for pattern in skippable)
        ]

    def renamed(self, name: str) -> tuple[str, bool]:
        """The loader's name for a tensor on disk, and whether it also converts its values."""
        from transformers.core_model_loading import rename_source_key

        key, converter = rename_source_key(
            name, self.renamings, self.converters, self.model.base_model_prefix, self.state
        )
        return key, converter is not None

    def part(self, name: str) -> Part | None:
        key, converted = self.renamed(name)
        if not converted:
            return Part(key) if key in self.state else None
        return self._fingerprinted(name, key)

    def _fingerprinted(self, name: str, key: str) -> Part:
        if self.saved is None:
            from transformers.core_model_loading import revert_weight_conversion

            self.saved = revert_weight_conversion(self.model, dict(self.state))
        value = self.saved.get(name)
        if value is not None:
            for parameter, stored in self.state.items():
                if (part := _same(value, parameter, stored)) is not None:
                    return part
        raise UnsupportedModelError(
            f"{name}: transformers computes {key} from it in a way that is not understood",
            "please report the model id",
        )

    def why_carried(self, name: str) -> str:
        """Why the loader may pass a tensor over; raises CheckpointError if there is no reason."""
        key, _ = self.renamed(name)
        ignored = getattr(self.model, "_keys_to_ignore_on_load_unexpected", None) or []
        for pattern in ignored:
            if re.search(pattern, name):
                return "the class ignores it"
        buffers = {buffer for buffer, _ in self.model.named_buffers()}
        prefix = f"{self.model.base_model_prefix}."
        if {key, prefix + key, key.removeprefix(prefix)} & buffers:
            return "a buffer that code computes"
        raise CheckpointError(
            f"{name}: no parameter of {type(self.model).__name__} explains this tensor",
            "config.json and the weight files do not belong together; nothing was dropped",
        )


def _same(value: Tensor, parameter: str, stored: Tensor) -> Part | None:
    """The part of `stored` that equals `value`, if any."""
    for transposed in (False, True):
        whole = Part(parameter, None, transposed)
        if transposed and stored.dim() < 2:
            continue
        if _equal(whole.cut(stored), value):
            return whole
        if stored.dim() == value.dim() + 1 and (not transposed or value.dim() >= 2):
            for index in range(stored.shape[0]):
                piece = Part(parameter, index, transposed)
                if _equal(piece.cut(stored), value):
                    return piece
    return None


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left.contiguous(), right.contiguous())
