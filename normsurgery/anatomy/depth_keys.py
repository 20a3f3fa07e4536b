"""Which numbers of a configuration hold the depth of which list of modules: found by changing them.

Every integer that equals a list's length is a candidate. The model is rebuilt without storage with
one more there; entries of lists by block are repeated so that the configuration stays consistent.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from normsurgery.anatomy.config_places import Key, integers, pattern_length, set_at, value_at
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.twin import meta_model
from normsurgery.errors import SurgeryError


def depth_keys(
    model_class: type, config: Any, depths: Mapping[str, int]
) -> dict[str, tuple[Key, ...]]:
    """The keys of each list of modules that has any. depths: list's module path → its length."""
    values = config.to_dict()
    found: dict[str, tuple[Key, ...]] = {}
    for depth in dict.fromkeys(depths.values()):
        candidates = [key for key, value in integers(values) if value == depth]
        names = [name for name, length in depths.items() if length == depth]
        probe = _Probe(model_class, type(config), values, depth)
        for name, keys in probe.keys_of(names, candidates).items():
            found[name] = (*keys, *probe.aliases(keys, candidates))
    return found


class _Probe:
    """Rebuilds a model whose lists of `depth` blocks are to get one block more."""

    def __init__(
        self, model_class: type, config_class: Any, values: Mapping[str, Any], depth: int
    ) -> None:
        self.model_class, self.config_class = model_class, config_class
        self.values, self.depth = values, depth

    def keys_of(self, names: Sequence[str], candidates: Sequence[Key]) -> dict[str, list[Key]]:
        """The fewest keys that each list follows: one, or several that must change together."""
        found: dict[str, list[Key]] = {}
        for key in candidates:
            for name in self.followers(names, [key]):
                found.setdefault(name, [key])
        rest = [name for name in names if name not in found]
        if not rest or not candidates:
            return found
        for name in self.followers(rest, candidates):
            keys = list(candidates)
            for key in candidates:
                fewer = [other for other in keys if other != key]
                if fewer and self.followers([name], fewer):
                    keys = fewer
            found[name] = keys
        return found

    def followers(self, names: Sequence[str], keys: Sequence[Key]) -> list[str]:
        """The lists that have one block more once these numbers are one more."""
        try:
            model = meta_model(self.model_class, self.config(self.grown(keys)))
        except SurgeryError:
            return []
        except Exception:  # what a configuration class raises at values it refuses
            return []
        return [name for name in names if _length(model, name) == self.depth + 1]

    def aliases(self, keys: Sequence[Key], candidates: Sequence[Key]) -> list[Key]:
        """Places that the class fills in from the keys where they are left out."""
        found = []
        for key in candidates:
            if key in keys or not isinstance(key[-1], str):
                continue
            left_out = [self.filled_in(values, key) for values in (self.values, self.grown(keys))]
            if left_out == [self.depth, self.depth + 1]:
                found.append(key)
        return found

    def filled_in(self, values: Mapping[str, Any], key: Key) -> Any:
        """What the class puts at a place that is left out; None where it cannot."""
        values = copy.deepcopy(dict(values))
        del value_at(values, key[:-1])[key[-1]]
        try:
            return value_at(self.config(values).to_dict(), key)
        except Exception:  # the class needs the value, or has no such place of its own
            return None

    def grown(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The configuration with one more at these places, its lists by block made longer."""
        values = copy.deepcopy(dict(self.values))
        for key in keys:
            set_at(values, key, self.depth + 1)
            if isinstance(key[-1], str):
                _lengthen(value_at(values, key[:-1]), self.depth)
        return values

    def config(self, values: Mapping[str, Any]) -> Any:
        with quiet():
            return self.config_class.from_dict(copy.deepcopy(dict(values)))


def _lengthen(values: dict[str, Any], depth: int) -> None:
    """Repeat the last entry of every list by block, written out or compressed."""
    for key, value in values.items():
        if not isinstance(value, list):
            continue
        if len(value) == depth:
            values[key] = [*value, value[-1]]
        elif pattern_length(value) == depth:
            values[key] = [*value, [[value[-1][0][-1]], 1]]


def _length(model: nn.Module, name: str) -> int:
    try:
        return sum(1 for _ in model.get_submodule(name).children())
    except AttributeError:
        return 0
