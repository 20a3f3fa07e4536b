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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from normsurgery.errors import CheckpointError, UnsupportedModelError

_STATISTICS = (".running_mean", ".running_var")


@dataclass(frozen=True)
class Part:
    """How a tensor on disk holds (part of) a parameter.

    `parameter[index]` where several are stacked (experts); of that the `chunk[0]`-th of `chunk[1]`
    equal pieces along the first axis where several are joined (gate and up); perhaps transposed.
    """

    parameter: str
    index: int | None = None
    transposed: bool = False
    chunk: tuple[int, int] | None = None

    def cut(self, value: Tensor) -> Tensor:
        """What stands on disk, given the parameter's value."""
        part = value if self.index is None else value[self.index]
        if self.chunk is not None:
            part = part.chunk(self.chunk[1])[self.chunk[0]]
        return part.transpose(0, 1) if self.transposed else part

    def cuts_along(self, parameter_axis: int) -> bool:
        """Whether only a piece of that axis of the parameter is here."""
        return self.chunk is not None and parameter_axis == (self.index is not None)

    def axis(self, parameter_axis: int) -> int:
        """The axis on disk of an axis of the parameter."""
        axis = parameter_axis - (self.index is not None)
        return 1 - axis if self.transposed and axis < 2 else axis


@dataclass(frozen=True)
class NameMap:
    """parts: name on disk → what it holds. joins: name on disk → parameters that it concatenates.

    carried: names on disk that no parameter reads, and why.
    tied: parameter → the name its value is loaded under (itself, unless tied to another).
    """

    parts: Mapping[str, Part]
    joins: Mapping[str, tuple[str, ...]]
    carried: Mapping[str, str]
    tied: Mapping[str, str]

    def on_disk(self, parameter: str) -> list[tuple[str, Part]]:
        """Every tensor on disk that holds the parameter or one tied to it.

        Raises UnsupportedModelError where it is only a piece of a tensor on disk.
        """
        group = self.tied.get(parameter, parameter)
        found = [
            (name, part)
            for name, part in self.parts.items()
            if self.tied.get(part.parameter, part.parameter) == group
        ]
        if not found:
            raise UnsupportedModelError(
                f"{parameter} is stored as a piece of {self.joint(parameter)}, "
                "which this surgery cannot edit",
                "normsurgery inspect MODEL   # what does apply",
            )
        return found

    def joint(self, parameter: str) -> str | None:
        """The tensor on disk that concatenates the parameter with others, if one does."""
        return next((name for name, held in self.joins.items() if parameter in held), None)

    def held_by(self, name: str) -> set[str]:
        """The parameters that a tensor on disk holds."""
        return set(self.joins[name]) if name in self.joins else {self.parts[name].parameter}

    def value(self, name: str, state: Mapping[str, Tensor]) -> Tensor:
        """What stands on disk under a name, given the parameters' values."""
        if name in self.joins:
            return torch.cat([state[parameter] for parameter in self.joins[name]])
        return self.parts[name].cut(state[self.parts[name].parameter])


def map_names(model: Any, on_disk: Iterable[str], *, twin: Any = None) -> NameMap:
    """Explain every tensor name of a checkpoint by the parameters of `model`.

    model: the checkpoint's class at full size, without storage. twin: the same, tiny; its values
    are sent through the saving code where names alone do not tell (None: those of `model`).
    Raises CheckpointError for a tensor that nothing explains or a parameter that is missing.
    """
    tied = tied_names(model)
    rename = _Renamer(model, model if twin is None else twin)
    parts: dict[str, Part] = {}
    joins: dict[str, tuple[str, ...]] = {}
    carried: dict[str, str] = {}
    for name in on_disk:
        held = rename.held(name)
        if isinstance(held, Part):
            parts[name] = held
        elif held:
            joins[name] = held
        else:
            carried[name] = rename.why_carried(name)
    held_names = [part.parameter for part in parts.values()]
    held_names += [name for joined in joins.values() for name in joined]
    present = {tied.get(name, name) for name in held_names}
    missing = [name for name in rename.needed if tied.get(name, name) not in present]
    if missing:
        raise CheckpointError(
            f"{_some(missing)} of {type(model).__name__} not in the checkpoint",
            "config.json and the weights do not belong together, or a download is incomplete",
        )
    return NameMap(parts, joins, carried, tied)


def tied_names(model: Any) -> dict[str, str]:
    """The name of every parameter and statistic → the first under which that tensor is reached."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    statistics = [
        (name, buffer)
        for name, buffer in model.named_buffers(remove_duplicate=False)
        if name.endswith(_STATISTICS)
    ]
    for name, parameter in (*model.named_parameters(remove_duplicate=False), *statistics):
        names[name] = first.setdefault(id(parameter), name)
    return names


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{more}"


class _Renamer:
    """The loader's renaming rules of one model."""

    def __init__(self, model: Any, twin: Any) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self.model, self.twin = model, twin
        self.state: dict[str, Tensor] = model.state_dict()
        rules = get_model_conversion_mapping(model)
        self.renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self.converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self.saved: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
        skippable = getattr(model, "_keys_to_ignore_on_load_missing", None) or []
        parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        # A statistic that is not in the file would be loaded as that of an untrained norm.
        statistics = [name for name in self.state if name.endswith(_STATISTICS)]
        self.needed = [
            name
            for name in (*parameters, *statistics)
            if not any(re.search(pattern, name) for pattern in skippable)
        ]

    def renamed(self, name: str) -> tuple[str, bool]:
        """The loader's name for a tensor on disk, and whether it also converts its values."""
        from transformers.core_model_loading import rename_source_key

        key, converter = rename_source_key(
            name, self.renamings, self.converters, self.model.base_model_prefix, self.state
        )
        return key, converter is not None

    def held(self, name: str) -> Part | tuple[str, ...] | None:
        """What a tensor on disk holds: a part, several parameters in a row, or nothing."""
        key, converted = self.renamed(name)
        if not converted:
            return Part(key) if key in self.state else None
        if self.saved is None:
            self.saved = _saved_form(self.twin)
        values, written = self.saved
        held = _fingerprinted(written[name], values, likely=key) if name in written else None
        if held is None:
            raise UnsupportedModelError(
                f"{name}: transformers computes {key} from it in a way that is not understood",
                "please report the model id",
            )
        return held

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


def _saved_form(model: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fingerprints of every parameter, and the same sent through transformers' saving code."""
    from transformers.core_model_loading import revert_weight_conversion

    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(value.shape, generator=generator)
        for name, value in model.state_dict().items()
    }
    return state, revert_weight_conversion(model, dict(state))


def _fingerprinted(
    value: Tensor, state: Mapping[str, Tensor], *, likely: str
) -> Part | tuple[str, ...] | None:
    """What `value` holds of the parameters. likely: the one to look at before all others."""
    for name in ([likely] if likely in state else []) + list(state):
        part = _same(value, name, state[name])
        if part is not None:
            return part
    return _joined(value, state)


def _joined(value: Tensor, state: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """The parameters that `value` concatenates along its first axis."""
    names: list[str] = []
    start = 0
    while start < value.shape[0]:
        rest = value[start:]
        found = next(
            (
                name
                for name, parameter in state.items()
                if parameter.dim() == value.dim() and _equal(rest[: len(parameter)], parameter)
            ),
            None,
        )
        if found is None:
            return None
        names.append(found)
        start += len(state[found])
    return tuple(names)


def _same(value: Tensor, parameter: str, stored: Tensor) -> Part | None:
    """The part of `stored` that equals `value`, if any."""
    for transposed in (False, True):
        if transposed and stored.dim() < 2:
            continue
        stacked = stored.dim() == value.dim() + 1 and (not transposed or value.dim() >= 2)
        for index in _holding(stored, value) if stacked else [None]:
            for piece in _pieces(Part(parameter, index, transposed), stored):
                if _equal(piece.cut(stored), value):
                    return piece
    return None


def _holding(stored: Tensor, value: Tensor) -> list[int]:
    """The entries of a stack that hold the first number of `value`: no other can equal it."""
    return (stored == value.flatten()[0]).flatten(1).any(1).nonzero().flatten().tolist()


def _pieces(whole: Part, stored: Tensor) -> list[Part]:
    """The part itself and its two halves, where it has any."""
    rows = stored.shape[whole.index is not None :][:1]
    halves = [replace(whole, chunk=(k, 2)) for k in range(2)] if rows and rows[0] > 1 else []
    return [whole, *halves]


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left.contiguous(), right.contiguous())
