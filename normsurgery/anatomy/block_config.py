"""The configuration of a rearranged stack: what config.json says of single blocks moves with them.

Nothing is known by name. A list is by block if swapping two of its entries changes those two
blocks; a number is a threshold or a step if one more of it changes some blocks and not all; a list
of numbers holds block numbers if taking one in or out changes that block. What is proposed is
checked: the class, built from the new configuration, must give every block its source's kind.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normsurgery.anatomy.backbone_taps import moved_taps
from normsurgery.anatomy.block_kinds import Kinds, Mismatch
from normsurgery.anatomy.config_places import (
    Key,
    compressed,
    edited,
    holds,
    pattern_length,
    value_at,
    written_out,
)
from normsurgery.anatomy.config_trials import ConfigTrials, Edits
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.stacks import Stack
from normsurgery.errors import UnsupportedModelError, VerificationError

_MOST_TRIES = 64


@dataclass(frozen=True)
class ConfigPlan:
    """Edits of the configuration, and what they make of the blocks.

    edits: place in the configuration → its new value. before, after: the kinds of the blocks.
    """

    edits: Edits
    before: Kinds
    after: Kinds


@single_thread()
def plan_config(
    examination: Examination, written: Mapping[str, Any], stack: Stack, order: Sequence[int]
) -> ConfigPlan:
    """The configuration in which block j is of the kind that block order[j] has now.

    written: config.json. order: numbers of source blocks; a block that is added has the number of
    the block that it is made after.
    Raises UnsupportedModelError naming the block and what would become of it where no
    configuration of the class says this.
    """
    planner = _Planner(examination, written, stack, order)
    edits = planner.plan()
    final = edited(written, edits, examination.config)
    after = planner.kinds(final, {})
    if after is None or planner.source.mismatches(after, order):
        raise VerificationError(
            "config.json as it would be written does not say what was planned",
            "please report the model id",
        )
    _check_outside(planner.source, after)
    return ConfigPlan(edits, planner.source, after)


def _check_outside(before: Kinds, after: Kinds) -> None:
    """Refuse where weights outside the blocks are cut to the number of blocks."""
    for name in dict.fromkeys([*before.outside, *after.outside]):
        if before.outside.get(name) != after.outside.get(name):
            raise UnsupportedModelError(
                f"{name} has a size that follows the number of blocks",
                "its slices by block are not rearranged; no order of other length can be made",
            )


class _Planner(ConfigTrials):
    """What the configuration holds by block, and the search for what says the new order."""

    def __init__(
        self,
        examination: Examination,
        written: Mapping[str, Any],
        stack: Stack,
        order: Sequence[int],
    ) -> None:
        super().__init__(examination, stack, order)
        self.scope: Key = stack.keys[0][:-1]
        while self.scope and not isinstance(value_at(self.values, self.scope), dict):
            self.scope = self.scope[:-1]
        self.lists = {key: value for key, value in self._sized() if self.is_by_block(key, value)}
        self.derived = [key for key in self.lists if not holds(written, key, self.config)]
        self.given = copy.deepcopy(self.values)
        for key in self.derived:
            del value_at(self.given, key[:-1])[key[-1]]
        if not self.agrees(self.given, {}, range(stack.depth)):
            self.given, self.derived = self.values, []  # the class does not derive them again

    def plan(self) -> Edits:
        edits: Edits = dict.fromkeys(self.stack.keys, len(self.order))
        edits |= moved_taps(value_at(self.values, self.scope), self.scope, self.order, self.stack)
        edits |= {key: self.mapped(numbers) for key, numbers in self.told().items()} | edits
        shown = {key: self.moved(v) for key, v in self.lists.items() if key not in self.derived}
        every = {key: self.moved(v) for key, v in self.lists.items()}
        refused: list[Mismatch] | None = None
        for base, lists in ((self.given, shown), (self.given, every)):
            found, left = self.solved(base, edits | lists)
            if found is not None:
                return found | self.tidied(found)
            refused = refused or left
        raise self.refusal(refused)

    def refusal(self, mismatches: Sequence[Mismatch] | None) -> UnsupportedModelError:
        name = self.model_class.__name__
        if not mismatches:
            count = f"{len(self.order)} blocks in {self.stack.name}"
            return UnsupportedModelError(
                f"{name} refuses a configuration with {count}", "choose other blocks"
            )
        first = mismatches[0]
        return UnsupportedModelError(
            f"{name} cannot express this order: {first} (block {self.order[first.block]} of the "
            f"source)",
            "the class decides this by the block's number; choose blocks that keep the pattern",
        )

    # what the configuration holds by block

    def _sized(self) -> Iterator[tuple[Key, Any]]:
        """Lists, strings and compressed patterns of the stack's scope with an entry a block."""
        depth = self.stack.depth
        keys = {key[: len(self.scope) + 1] for key in self.stack.keys}
        for name, value in value_at(self.values, self.scope).items():
            key = (*self.scope, name)
            if key in keys or not isinstance(value, (list, tuple, str)):
                continue
            if pattern_length(value) == depth or len(value) == depth:
                yield key, value

    def is_by_block(self, key: Key, value: Any) -> bool:
        entries = written_out(value)
        pair = next(
            ((0, other) for other, entry in enumerate(entries) if entry != entries[0]), None
        )
        if pair is None:  # all alike: it has to be as long as the stack if nothing else reads it
            return not isinstance(value, str) and self.harmless(key, value, entries)
        swapped = list(entries)
        swapped[0], swapped[pair[1]] = entries[pair[1]], entries[0]
        changed = self.changed_by({key: compressed(swapped, value)})
        if changed is None or changed:
            return changed == set(pair)
        words = all(isinstance(entry, str) for entry in entries)
        return isinstance(value, list) and (words or _speaks_of_blocks(key))

    def harmless(self, key: Key, value: Any, entries: list[Any]) -> bool:
        """Whether the list may follow the stack: longer with it, it changes nothing outside."""
        longer = [*entries, entries[-1]]
        grown: Edits = dict.fromkeys(self.stack.keys, self.stack.depth + 1)
        for other, entry in self._sized():
            if not isinstance(entry, str) and other != key:
                own = written_out(entry)
                grown[other] = compressed([*own, own[-1]], entry)
        kinds = self.kinds(self.values, grown | {key: compressed(longer, value)})
        if kinds is None:
            kinds = self.kinds(
                self.values,
                dict.fromkeys(self.stack.keys, self.stack.depth + 1)
                | {key: compressed(longer, value)},
            )
        return kinds is not None and set(kinds.outside) == set(self.source.outside)

    def moved(self, value: Any) -> Any:
        """A list by block in the new order."""
        entries = written_out(value)
        return compressed([entries[source] for source in self.order], value)

    # the search

    def solved(self, base: Mapping[str, Any], edits: Edits) -> tuple[Edits | None, list[Mismatch]]:
        """The edits with thresholds, steps and block numbers set; or what no setting mends."""
        best = self.judge(base, edits)
        if best is not None and not best:
            return edits, []
        numbers, indices = self.knobs(base)
        mapped = {key: self.mapped(value) for key, value in indices.items()}
        choices = [[(key, option) for option in self.options(v)] for key, v in numbers.items()]
        tries = itertools.islice(itertools.product(*choices), _MOST_TRIES)
        for chosen in tries:
            attempt = edits | mapped | dict(chosen)
            left = self.judge(base, attempt)
            for key in [None, *indices]:
                if left and key is not None:
                    attempt, left = self.toggled(base, attempt, key, left)
                if left is not None and not left:
                    return attempt, []
            best = left if best is None or (left is not None and len(left) < len(best)) else best
        return None, best or []

    def toggled(
        self, base: Mapping[str, Any], edits: Edits, key: Key, left: list[Mismatch]
    ) -> tuple[Edits, list[Mismatch] | None]:
        """The blocks that are wrong taken into, or out of, a list of block numbers."""
        wrong = {mismatch.block for mismatch in left}
        attempt = edits | {key: sorted(set(edits[key]) ^ wrong)}
        after = self.judge(base, attempt)
        better = after is not None and len(after) < len(left)
        return (attempt, after) if better else (edits, left)

    def knobs(self, base: Mapping[str, Any]) -> tuple[Edits, dict[Key, list[int]]]:
        """Numbers that decide on some blocks and not all, and lists of block numbers."""
        depth = self.stack.depth
        numbers: Edits = {}
        indices: dict[Key, list[int]] = {}
        start = self.kinds(base, {})
        assert start is not None
        for name, value in value_at(base, self.scope).items():
            key = (*self.scope, name)
            if key in self.stack.keys or key in self.lists:
                continue
            if type(value) is int and 0 <= value <= 2 * depth:
                changed = self.effects(base, start, [{key: value + 1}, {key: value - 1}])
                if any(0 < len(blocks) < depth for blocks in changed):
                    numbers[key] = value
            elif _are_block_numbers(value, depth):
                both = [{key: sorted({*value} ^ {block})} for block in (0, depth - 1)]
                changed = self.effects(base, start, both)
                if any(len(blocks) == 1 for blocks in changed):
                    indices[key] = list(value)
        return numbers, indices

    def effects(
        self, base: Mapping[str, Any], start: Kinds, variants: Sequence[Edits]
    ) -> list[set[int]]:
        made = (self.kinds(base, edits) for edits in variants)
        kept = (kinds for kinds in made if kinds is not None and kinds.outside == start.outside)
        return [start.differing(kinds) for kinds in kept if start.only_reassigns(kinds)]

    def options(self, value: int) -> list[int]:
        """A threshold counted from the front, from the back; a step of one; as it was."""
        below = sum(source < value for source in self.order)
        above = sum(source >= self.stack.depth - value for source in self.order)
        return list(dict.fromkeys([value, below, above, 1, 0, len(self.order)]))

    def mapped(self, numbers: Sequence[int]) -> list[int]:
        return [block for block, source in enumerate(self.order) if source in numbers]

    def told(self) -> dict[Key, list[int]]:
        """Lists of block numbers by their names: some are read where no block shows it.

        Qwen2.5-VL's tower asks `fullatt_block_indexes` as it runs; a twin's picture is too small to
        feel the difference.
        """
        if any(isinstance(key[-1], int) for key in self.stack.keys):
            return {}  # one of several stages: numbers may be those of stages
        return {
            (*self.scope, name): list(value)
            for name, value in value_at(self.values, self.scope).items()
            if value
            and _are_block_numbers(value, self.stack.depth)
            and (*self.scope, name) not in self.lists
            and _speaks_of_blocks((name,))
            and not name.startswith("out_")
        }

    def tidied(self, edits: Edits) -> Edits:
        """Thresholds beside a list that says the same, as other programs may read them."""
        hidden = [key for key in self.lists if key in edits and holds(self.given, key)]
        if not hidden:
            return {}
        bare = copy.deepcopy(self.given)
        for key in hidden:
            del value_at(bare, key[:-1])[key[-1]]
        if not self.agrees(bare, {}, range(self.stack.depth)):
            return {}
        plain = {key: value for key, value in edits.items() if key not in hidden}
        found, _ = self.solved(bare, plain)
        more = {key: value for key, value in (found or {}).items() if key not in edits}
        return more if self.judge(self.given, edits | more) == [] else {}


def _speaks_of_blocks(key: Key) -> bool:
    return re.search(r"layer|block|index|indices|idx", str(key[-1])) is not None


def _are_block_numbers(value: Any, depth: int) -> bool:
    """Whether a list may hold numbers of blocks; an empty one may."""
    if not isinstance(value, (list, tuple)):
        return False
    numbers = all(type(item) is int and 0 <= item < depth for item in value)
    return numbers and len(set(value)) == len(value)
