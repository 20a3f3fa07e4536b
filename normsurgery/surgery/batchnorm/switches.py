"""Stock configuration keys that take BatchNorms out of the source's own class.

The table says what a key means, not which family has it: whatever configuration (or part of one)
has the key can be switched. What is then missing is seen by building the class both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from normsurgery.anatomy.config_places import Key, set_at
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.twin import meta_model
from normsurgery.errors import UnsupportedModelError


@dataclass(frozen=True)
class Switch:
    """A key, its value without norms, and the keys that must go with it."""

    key: str
    off: Any
    also: Mapping[str, Any] = field(default_factory=dict)


SWITCHES = (
    # DPT, ZoeDepth, DepthPro: convolutions of the fusion blocks with a norm, or with a bias.
    Switch("use_batch_norm_in_fusion_residual", False, {"use_bias_in_fusion_residual": True}),
    # PP-LCNetV3: how many parallel convolutions of one size a block has.
    Switch("conv_symmetric_num", 1),
)


@dataclass(frozen=True)
class Switched:
    """edits: place in the configuration → value. held: every tensor that the class then has."""

    edits: Mapping[Key, Any]
    held: frozenset[str]

    @property
    def words(self) -> str:
        """`use_batch_norm_in_fusion_residual: false, …`."""
        shown = {".".join(map(str, key)): str(value).lower() for key, value in self.edits.items()}
        return ", ".join(f"{key}: {value}" for key, value in shown.items())


def find_switch(examination: Examination) -> Switched:
    """The switch of this configuration, and what the class has once it is turned.

    Raises UnsupportedModelError where there is none, or it is turned already.
    """
    written = examination.config.to_dict()
    edits = dict(_edits(written))
    if not edits:
        known = ", ".join(switch.key for switch in SWITCHES)
        raise UnsupportedModelError(
            f"{type(examination.config).__name__} has no key that takes BatchNorms out of "
            f"{examination.model_class.__name__} (known: {known}), or it is turned already",
            "--form keep opens in the source's class too; --form graft takes the norms out",
        )
    for place, value in edits.items():
        set_at(written, place, value)
    config = type(examination.config).from_dict(written)
    held = frozenset(meta_model(examination.model_class, config).state_dict())
    return Switched(edits, held)


def _edits(part: Mapping[str, Any], at: Key = ()) -> Iterator[tuple[Key, Any]]:
    for switch in SWITCHES:
        if switch.key in part and _is_on(part[switch.key], switch.off):
            yield (*at, switch.key), switch.off
            for key, value in switch.also.items():
                yield (*at, key), value
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _edits(value, (*at, name))


def _is_on(value: Any, off: Any) -> bool:
    return bool(value) if off is False else isinstance(value, int) and value > off
