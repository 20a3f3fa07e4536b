"""The walk that substitutes for dropped blocks and heals what follows, without gradients.

The teacher's stream (all blocks) and the student's (those that are kept) pass the stack side by
side. At a seam, the last kept block before a cut, the student's writers are fitted so that its
stream is the teacher's behind the cut; in each later block, so that it is the teacher's after that
block. Held are two buffers of hidden states, the block at work (with the dropped ones while their
units are compared) and the sums of one regression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.block_writers import BlockWriter
from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.fit.block_fit import Batch, BlockFit
from normsurgery.calibrate.fit.blocks import Linear, LoadedBlock, why_not_linear
from normsurgery.calibrate.fit.gram import Regression
from normsurgery.calibrate.fit.merge import Candidates, Donor, folded_readers
from normsurgery.calibrate.fit.replaceme import OBJECTIVES, ReplaceMe
from normsurgery.calibrate.fit.units import Units, find_units
from normsurgery.calibrate.states import HiddenStates
from normsurgery.calibrate.tokens import check_tokens
from normsurgery.errors import UsageError

SUBSTITUTES = ("none", "replaceme", "refit", "merge")
HEALS = ("none", "sequential")
PLENTY = 12  # tokens per regressor, beyond which more hardly change a fit that others follow
WHOLE_BATCHES = 16  # batches, from which on whole ones are held out instead of rows

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What is to be done. order: the kept blocks, ascending.

    objective: of replaceme. held: share of the text that decides on ridges and acceptance.
    losses: whether to walk to the end and measure the loss on that share.
    """

    order: tuple[int, ...]
    substitute: str = "merge"
    heal: str = "sequential"
    objective: str = "squares"
    held: float = 1 / 8
    seed: int = 0
    losses: bool = False

    def cuts(self, depth: int) -> dict[int, tuple[int, ...]]:
        """Seam → the blocks dropped behind it."""
        following = [*self.order[1:], depth]
        return {
            block: tuple(range(block + 1, after))
            for block, after in zip(self.order, following, strict=True)
            if after != block + 1
        }


@dataclass(frozen=True)
class Fitted:
    """weights: parameter of the source model → its new value, in storage dtype.

    record: a line a step: {"block", "writer", "ridge", "before", "after", "accepted"}, errors
    relative and squared, on held-out text; or {"block", "writer", "skipped": reason}.
    tokens: counted in the fits. regressors: of the largest. notes: what should be said with them.
    losses: mean cross-entropy of original and result on the held-out text, in nats, if asked for.
    """

    weights: dict[str, Tensor]
    record: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    regressors: int = 0
    notes: tuple[str, ...] = ()
    losses: tuple[float, float] | None = None


def refit_and_heal(
    blockwise: Blockwise,
    writers: Sequence[Sequence[BlockWriter]],
    plan: Plan,
    *,
    progress: Progress | None = None,
) -> Fitted:
    """New weights for the kept blocks of a cut model, from one walk over the stack.

    blockwise: of the whole source model. writers: of its blocks, from `block_writers`.
    progress: called with (blocks done, of how many).
    Raises UsageError for an impossible plan or fewer tokens than regressors,
    UnsupportedModelError where the substitute does not apply.
    """
    return Walk(blockwise, writers, plan, progress).run()


class Walk:
    """The two streams on their way through the stack."""

    def __init__(
        self, blockwise: Blockwise, writers: Sequence[Sequence[BlockWriter]], plan: Plan,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self.blockwise, self.writers, self.plan = blockwise, writers, plan
        self.processes, self.progress = blockwise.processes, progress
        self.depth = len(blockwise.stack.blocks)
        _check(plan, self.depth)
        self.cuts = plan.cuts(self.depth)
        self.held = list(_held_out(blockwise, plan))
        self.weights: dict[str, Tensor] = {}
        self.record: list[dict[str, Any]] = []
        self.notes: dict[str, None] = {}
        self.layouts: dict[tuple[int, int], Units] = {}
        self.tokens = self.counted()
        self.regressors = 0
        self.teacher: HiddenStates
        self.student: HiddenStates | None = None

    def run(self) -> Fitted:
        """Walk to the last block that something is fitted in."""
        if self.plan.substitute == self.plan.heal == "none" or not (
            self.cuts or self.plan.order[0]
        ):
            return Fitted({})
        to_the_end = self.plan.heal != "none" or self.plan.losses
        last = self.depth if to_the_end else max(self.cuts, default=-1) + 1
        self.teacher = self.blockwise.embedded("teacher")
        if self.plan.order[0]:
            self.student = self.teacher.copy("student")
            for block in range(self.plan.order[0]):
                self.blockwise.advance(block, self.teacher)
        for block in self.plan.order:
            if block >= last:
                break
            self.pass_block(block)
            if self.progress is not None:
                self.progress(block + 1, last)
        losses = self.losses() if self.plan.losses else None
        self.close()
        return Fitted(
            self.weights, self.record, self.tokens, self.regressors, tuple(self.notes), losses
        )

    def losses(self) -> tuple[float, float]:
        """Mean cross-entropy of the two streams' held-out tokens."""
        sums = torch.zeros(3, dtype=torch.float64)
        for number, rows in enumerate(self.blockwise.batches):
            chosen = self.held[number][:, 1:][rows.scored[:, 1:]]
            for place, states in enumerate((self.teacher, self.student or self.teacher)):
                losses = self.blockwise.batch_losses(number, states[number])
                sums[place] += losses.double().cpu()[chosen].sum()
            sums[2] += chosen.sum()
        teacher, student, count = self.processes.sum(sums).tolist()
        return teacher / max(count, 1), student / max(count, 1)

    def close(self) -> None:
        """Give the buffers back."""
        self.teacher.close()
        if self.student is not None:
            self.student.close()

    def pass_block(self, block: int) -> None:
        """Take both streams past a kept block and what is dropped behind it."""
        dropped = self.cuts.get(block, ())
        if self.student is None:
            if not dropped:
                self.blockwise.advance(block, self.teacher)
                return
            self.student = self.teacher.copy("student")
        for passed in (block, *dropped):
            self.blockwise.advance(passed, self.teacher)
        with self.blockwise.loaded(block) as module:
            loaded = LoadedBlock(self.blockwise, block, module)
            if dropped and self.plan.substitute != "none":
                self.substitute(loaded, dropped)
            elif self.plan.heal != "none":
                self.heal(loaded)
            path = self.blockwise.stack.blocks[block]
            self.weights |= {f"{path}.{name}": new for name, new in loaded.changed.items()}
            for batch in range(len(self.student)):
                self.student[batch] = loaded.run(batch, self.student[batch])

    def substitute(self, block: LoadedBlock, dropped: Sequence[int]) -> None:
        """Fit the seam to the teacher's stream behind the cut."""
        writers = self.writers[block.index]
        if self.plan.substitute == "replaceme":
            fit = ReplaceMe(
                block, writers, self.batch, self.reduce, sum_gradient=self.mean_gradient
            )
            self.record.append(fit.run(self.plan.objective))
            return
        candidates = self.candidates(block, dropped) if self.plan.substitute == "merge" else {}
        self.fit(block, candidates).run_seam()

    def heal(self, block: LoadedBlock) -> None:
        """Bring a later block's output closer to the teacher's."""
        self.fit(block, {}).run_healing()

    def fit(self, block: LoadedBlock, candidates: dict[str, Candidates]) -> BlockFit:
        """The fit of a block's writers to the teacher's stream after it."""
        return BlockFit(
            block, self.writers[block.index], self.batch, self.reduce, self.numbers, candidates,
            self.record,
        )  # fmt: skip

    def numbers(self, regressors: int) -> Sequence[int]:
        """Batches of this process to look at: every second one where that is text enough."""
        everything = range(len(self.blockwise.batches))
        halved = len(self.blockwise.all_batches) >= WHOLE_BATCHES
        if not halved or self.tokens < 2 * PLENTY * regressors:
            return everything
        count, rank = self.processes.count, self.processes.rank
        return [number for number in everything if (number * count + rank) % 2 == 0]

    def candidates(self, block: LoadedBlock, dropped: Sequence[int]) -> dict[str, Candidates]:
        """What the seam may take over from the blocks dropped behind it, by writer."""
        assert self.student is not None
        writers = [writer for writer in self.writers[block.index] if not why_not_linear(writer)]
        units = find_units(
            block, [writer.module for writer in writers], self.student[0], self.layouts
        )
        self.layouts |= {(len(own.readers), own.channels): own for own in units if own is not None}
        found: dict[str, Candidates] = {}
        donors: dict[str, list[Donor]] = {writer.module: [] for writer in writers}
        for other in dropped:
            theirs = {writer.module: writer for writer in self.writers[other]}
            with self.blockwise.loaded(other) as module:
                donor = LoadedBlock(self.blockwise, other, module)
                for writer, own in zip(writers, units, strict=True):
                    if own is not None and theirs.get(writer.module) == writer:
                        readers = folded_readers(donor, block, own)
                        donors[writer.module].append(Donor(readers, Linear(donor, writer).matrix))
        for writer, own in zip(writers, units, strict=True):
            if own is not None and donors[writer.module]:
                found[writer.module] = Candidates(own, tuple(donors[writer.module]))
            else:
                self.notes[
                    f"{writer.module} of block {block.index} has no units that can be exchanged "
                    "for those of a dropped block: it is refitted as it is"
                ] = None
        return found

    def batch(self, number: int) -> Batch:
        """The streams around the block at work. Weights are 1 / mean x² of the target's token.

        What follows reads the stream through a norm, so an error counts relative to its size.
        """
        assert self.student is not None
        target = self.teacher[number]
        size = target.float().square().mean(-1).clamp_min(1e-30)
        weight = self.blockwise.batches[number].scored / size
        return Batch(self.student[number], target, weight, self.held[number])

    def reduce(self, regression: Regression) -> None:
        """Finish the sums, over all processes, and see whether there are tokens enough."""
        for moments in (regression.fitted, regression.held):
            moments.reduce(self.processes.sum)
        regressors = len(regression.fitted.gram)
        self.regressors = max(self.regressors, regressors)
        if warning := check_tokens(int(regression.fitted.rows), regressors):
            self.notes[warning] = None

    def mean_gradient(self, gradient: Tensor) -> Tensor:
        return self.processes.sum(gradient) / self.processes.count

    def counted(self) -> int:
        """Tokens that count in a fit, of all processes."""
        own = sum(int(batch.scored.sum()) for batch in self.blockwise.batches)
        return int(self.processes.sum(torch.tensor(own)))


def _check(plan: Plan, depth: int) -> None:
    for value, known, name in (
        (plan.substitute, SUBSTITUTES, "substitute"), (plan.heal, HEALS, "heal"),
        (plan.objective, OBJECTIVES, "objective"),
    ):  # fmt: skip
        if value not in known:
            raise UsageError(f"there is no {name} {value!r}", f"there are: {', '.join(known)}")
    order = plan.order
    if not order or list(order) != sorted(set(order)) or order[0] < 0 or order[-1] >= depth:
        raise UsageError(
            "blocks can be fitted where some are dropped and the others keep their order",
            "with repeats or another order use --substitute none --heal none",
        )
    if not 0.0 < plan.held < 1.0:
        raise UsageError(f"the share held out is {plan.held}, not between 0 and 1")


def _held_out(blockwise: Blockwise, plan: Plan) -> Iterator[Tensor]:
    """Per batch of this process [rows, time], bool: the tokens that are held out.

    Whole batches at random, or rows where there are few batches, or the end of each where there
    are few rows.
    """
    total = len(blockwise.rows.ids)
    count = round(plan.held * total)
    generator = torch.Generator().manual_seed(plan.seed)
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[torch.randperm(total, generator=generator)[:count]] = True
    whole = _whole_batches(len(blockwise.all_batches), plan.held, generator)
    start = 0
    for number, batch in enumerate(blockwise.all_batches):
        rows, time = batch.ids.shape
        held = chosen[start : start + rows, None].expand(rows, time)
        if whole is not None:
            held = torch.full((rows, time), number in whole)
        elif count == 0:
            first = (batch.mask.sum(1, keepdim=True) * (1 - plan.held)).long()
            held = torch.arange(time)[None] >= first
        start += rows
        if number % blockwise.processes.count == blockwise.processes.rank:
            yield held


def _whole_batches(batches: int, share: float, generator: torch.Generator) -> set[int] | None:
    """Batches to be held out, as many even as odd ones (a fit may look at the even ones only)."""
    if batches < WHOLE_BATCHES:
        return None
    pairs = max(1, round(share * batches / 2))
    found: set[int] = set()
    for parity in (0, 1):
        some = torch.arange(parity, batches, 2)
        order = torch.randperm(len(some), generator=generator)
        found |= set(some[order[:pairs]].tolist())
    return found
