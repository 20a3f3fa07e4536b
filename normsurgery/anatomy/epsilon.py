"""Which key of a configuration holds the ε of given norms: changed on the twin, and watched."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from normsurgery.anatomy.config_places import Key, set_at
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.norms import Norm, find_norms
from normsurgery.anatomy.runtime import quiet, single_thread
from normsurgery.anatomy.twin import build_twin
from normsurgery.errors import SurgeryError, UnsupportedModelError

_HINT = "--export graft has no such need"


@single_thread()
def epsilon_key(examination: Examination, norms: Collection[str]) -> Key:
    """The place of the ε that all of `norms` divide with, and no other norm.

    Raises UnsupportedModelError with the reason where there is none: the class has ε in its code,
    or a norm that is not among them takes it from the same key.
    """
    before = {
        site.name: site.norm
        for site in examination.anatomy.sites.values()
        if site.norm.kind != "BatchNorm"
    }
    values = {before[name].eps for name in norms}
    if len(values) != 1:
        raise UnsupportedModelError(
            f"its norms have several ε ({', '.join(f'{v:g}' for v in sorted(values))})", _HINT
        )
    reason = "its ε is written in the code of the class, so config.json cannot change it"
    for key, value in _floats(examination.config.to_dict()):
        if value != next(iter(values)):
            continue
        after = _with(examination, key, value * 2)
        if after is None:
            continue
        moved = {name for name, norm in before.items() if after[name].eps != norm.eps}
        if moved == set(norms):
            return key
        others = sorted(moved - set(norms))
        if moved >= set(norms) and others:
            reason = f"{others[0]} stays a norm and takes its ε from the same key, {_shown(key)}"
        elif moved:
            stuck = sorted(set(norms) - moved)
            reason = f"{stuck[0]} does not take its ε from {_shown(key)}, as other norms do"
    raise UnsupportedModelError(reason, _HINT)


def _with(examination: Examination, key: Key, value: float) -> dict[str, Norm] | None:
    """The norms of a twin with another value at a place; None where the class refuses it."""
    values = copy.deepcopy(examination.config.to_dict())
    set_at(values, key, value)
    try:
        with quiet():
            config = type(examination.config).from_dict(values)
        twin = build_twin(examination.model_class, config)
    except SurgeryError:
        return None
    except Exception:  # what a configuration class raises at values that it refuses
        return None
    found = find_norms(twin.model, twin.shapes)
    return found if set(examination.anatomy.sites) <= set(found) else None


def _floats(tree: Any, at: Key = ()) -> Iterator[tuple[Key, float]]:
    """The floats of a configuration, with their places."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _floats(value, (*at, key))
    elif isinstance(tree, (list, tuple)):
        for position, value in enumerate(tree):
            yield from _floats(value, (*at, position))
    elif isinstance(tree, float):
        yield at, tree


def _shown(key: Key) -> str:
    return ".".join(str(step) for step in key)
