"""Build a model from configurations on trial, and see what kinds of blocks come out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from normsurgery.anatomy.block_kinds import Kinds, Mismatch, idle_modules, read_kinds
from normsurgery.anatomy.config_places import Key, set_at
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.stacks import Stack, run_twin
from normsurgery.anatomy.twin import meta_model
from normsurgery.errors import SurgeryError

Edits: TypeAlias = dict[Key, Any]


class ConfigTrials:
    """Trials for one stack, whose block j is to be of the kind of block order[j].

    values: the configuration with its defaults filled in. source: the kinds of the blocks as they
    are.
    """

    def __init__(self, examination: Examination, stack: Stack, order: Sequence[int]) -> None:
        self.model_class, self.config = examination.model_class, examination.config
        self.stack, self.order = stack, list(order)
        self.values: dict[str, Any] = self.config.to_dict()
        twin = examination.twin
        self.idle = idle_modules(twin.model, lambda: run_twin(twin), stack.blocks)
        kinds = self.kinds(self.values, {})
        assert kinds is not None  # the examination has built it
        self.source: Kinds = kinds

    def changed_by(self, edits: Edits) -> set[int] | None:
        """The blocks whose kind changes; None: the class refuses, or something outside changes."""
        kinds = self.kinds(self.values, edits)
        if kinds is None or kinds.outside != self.source.outside:
            return None
        return self.source.differing(kinds)

    def judge(self, base: Mapping[str, Any], edits: Edits) -> list[Mismatch] | None:
        """The blocks that are not of their source's kind; None where the class refuses."""
        kinds = self.kinds(base, edits)
        if kinds is None or len(kinds.blocks) != len(self.order):
            return None
        return self.source.mismatches(kinds, self.order)

    def agrees(self, base: Mapping[str, Any], edits: Edits, order: Sequence[int]) -> bool:
        kinds = self.kinds(base, edits)
        if kinds is None or len(kinds.blocks) != len(order):
            return False
        return not self.source.mismatches(kinds, order)

    def kinds(self, base: Mapping[str, Any], edits: Edits) -> Kinds | None:
        """The kinds of the blocks with this configuration; None where the class refuses it."""
        values = copy.deepcopy(dict(base))
        for key, value in edits.items():
            set_at(values, key, value)
        try:
            with quiet():
                config = type(self.config).from_dict(values)
            return read_kinds(meta_model(self.model_class, config), self.stack.name, self.idle)
        except SurgeryError:
            return None
        except Exception:  # what a configuration class raises at values that it refuses
            return None
