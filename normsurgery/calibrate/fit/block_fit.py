"""Refitting one block's writers in closed form so that the stream after it meets a target.

Two regressions with a ridge towards the present weights: attention's writer, then the MLP's. At a
seam the first is fitted together with the MLP's (of which it keeps its own half: it changes what
the MLP sees), and heads and neurons may be exchanged for those of the blocks dropped behind it.
Whatever does not lower the error on held-out text is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.block_writers import BlockWriter
from normsurgery.calibrate.fit.blocks import Linear, LoadedBlock, why_not_linear, with_ones
from normsurgery.calibrate.fit.gram import NOISE, RIDGES, Regression, Solution
from normsurgery.calibrate.fit.merge import Candidates, taken_over, worth_keeping

COARSE_RIDGES = (1e-3, 1e-1)  # before the units are chosen
_UNDECIDED_RIDGE = 1e-2  # for the worth of units where no ridge lowered the held-out error


@dataclass(frozen=True)
class Batch:
    """One batch of a fit. x, target: the stream before the block, and what is asked after it.

    weight: per token, 0 where it does not count. held: whether it is held out. [rows, time(, d)].
    """

    x: Tensor
    target: Tensor
    weight: Tensor
    held: Tensor


@dataclass(frozen=True)
class _Part:
    """Columns of a regression: a writer's input in a run with some parameters lent."""

    module: str
    weight: Tensor  # [d, in]: what these columns contribute at present, or did in their block
    constant: Tensor  # [d]
    lent: Mapping[str, Tensor] | None  # None: as the block is now


@dataclass(frozen=True)
class Outcome:
    """Mean held-out squared errors: after a step, and had only the companion been refitted."""

    error: float
    rest: float | None


@dataclass
class BlockFit:
    """One block's refit. batch: number → its streams. reduce: adds up several processes' sums.

    numbers: for so many regressors, the batches of this process that are looked at.

    candidates: writer's module → what it may take over from dropped blocks.
    record: a line a step, with relative squared errors of the stream on held-out text.
    """

    block: LoadedBlock
    writers: Sequence[BlockWriter]
    batch: Callable[[int], Batch]
    reduce: Callable[[Regression], None]
    numbers: Callable[[int], Sequence[int]]
    candidates: Mapping[str, Candidates] = field(default_factory=dict)
    record: list[dict[str, Any]] = field(default_factory=list)

    def run_seam(self, *, attention: bool = True) -> None:
        """Refit both writers in turn. attention: also the first."""
        first, last = self.usable()
        if first is None or not attention:
            if last is not None:
                self.fit(last, None)
            return
        state = self.state()
        alone = self.fit(first, last)
        if last is None:
            return
        changed = bool(self.block.changed)
        error = self.fit(last, None).error
        if changed and alone.rest is not None and alone.rest <= error:
            # the MLP sees another stream now, and makes worse of it than attention made better
            self.restore(state)
            self.record.pop()
            self.record[-1]["accepted"] = False
            self.fit(last, None)

    def run_healing(self) -> None:
        """Refit both writers at once: so small a change hardly moves what the MLP sees."""
        first, last = self.usable()
        if first is not None:
            self.fit(first, last, both=True)
        elif last is not None:
            self.fit(last, None)

    def usable(self) -> tuple[BlockWriter | None, BlockWriter | None]:
        """Attention's writer and the MLP's, where a regression can set them."""
        usable = [writer for writer in self.writers if not self.skipped(writer)]
        last = usable[-1] if usable and usable[-1] is self.writers[-1] else None
        first = usable[0] if usable and usable[0] is not last else None
        return first, last

    def skipped(self, writer: BlockWriter) -> bool:
        """Whether no regression can set this writer; the record says why."""
        reason = why_not_linear(writer)
        if reason:
            line = {"block": self.block.index, "writer": writer.module, "skipped": reason}
            self.record.append(line)
        return bool(reason)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What was changed so far, and all parameters (replaced later, never written into)."""
        values = {name: value.data for name, value in self.block.module.named_parameters()}
        return dict(self.block.changed), values

    def restore(self, state: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        """Take back what was put since."""
        self.block.changed = state[0]
        for name, value in state[1].items():
            self.block.module.get_parameter(name).data = value

    def fit(
        self, writer: BlockWriter, companion: BlockWriter | None, *, both: bool = False
    ) -> Outcome:
        """One regression of what is missing after the block; the writer is set if that helps.

        companion: another writer whose input is in the regression. It stays as it is, or is set
        from the same solution if `both`.
        """
        parts, own = self.parts(writer, companion)
        ones = any(one is not None and one.bias is not None for one in (writer, companion))
        regression = self.moments(parts, own, ones, whole=companion is None)
        prior = _matrix(parts, parts, ones)
        present = _matrix(parts, own, ones)
        before = regression.held.error(present)
        candidates = self.candidates.get(writer.module)
        solution = regression.solve(prior, RIDGES if candidates is None else COARSE_RIDGES)
        kept = None
        if candidates is not None:
            kept, columns = self.chosen(candidates, regression, prior, solution)
            solution = regression.chosen(columns).solve(prior[:, columns])
        accepted = solution.after < before - NOISE
        name = f"{writer.module}, {companion.module}" if both and companion else writer.module
        line: dict[str, Any] = {
            "block": self.block.index, "writer": name, "ridge": solution.ridge,
            "before": before, "after": solution.after, "accepted": accepted,
        }  # fmt: skip
        if kept is not None and candidates is not None:
            line["taken over"] = int((kept >= candidates.units.count).sum())
        self.record.append(line)
        # a mean: the two fits of a seam may look at different parts of the text
        square = float(regression.held.square / regression.held.weight.clamp_min(1e-300))
        rest = None
        if not both:
            rest = self.error_of_companion(regression, parts, present, companion, ones)
        if accepted:
            if both and companion is not None:
                self.put_companion(companion, parts, solution.weight)
            self.put(writer, companion, solution.weight, kept)
        error = min(before, solution.after) * square
        return Outcome(error, None if rest is None else rest * square)

    def parts(
        self, writer: BlockWriter, companion: BlockWriter | None
    ) -> tuple[list[_Part], list[_Part]]:
        """All columns of a regression, and those that the block has at present."""
        linear = Linear(self.block, writer)
        mine = _Part(writer.module, *linear.contribution(linear.matrix), None)
        parts = [mine]
        candidates = self.candidates.get(writer.module)
        for donor in candidates.donors if candidates is not None else ():
            dtype = self.block.blockwise.dtype
            lent = {name: value.to(dtype) for name, value in donor.readers.items()}
            parts.append(_Part(writer.module, *linear.contribution(donor.writer), lent))
        own = [mine]
        if companion is not None:
            other = Linear(self.block, companion)
            parts.append(_Part(companion.module, *other.contribution(other.matrix), None))
            own.append(parts[-1])
        return parts, own

    def moments(
        self, parts: Sequence[_Part], own: Sequence[_Part], ones: bool, *, whole: bool
    ) -> Regression:
        """The sums over batches of all processes: of all batches if `whole`."""
        inputs = sum(part.weight.shape[1] for part in parts) + int(ones)
        outputs = parts[0].weight.shape[0]
        device = self.block.blockwise.device
        regression = Regression.empty(inputs, outputs, device)
        everything = range(len(self.block.blockwise.batches))
        for number in everything if whole else self.numbers(inputs):
            given = self.batch(number)
            rows, missing = self.rows(number, given, parts, own)
            regression.add(
                with_ones(rows, ones), missing,
                given.weight.flatten().to(device), given.held.flatten().to(device),
            )  # fmt: skip
        self.reduce(regression)
        return regression

    def rows(
        self, number: int, given: Batch, parts: Sequence[_Part], own: Sequence[_Part]
    ) -> tuple[Tensor, Tensor]:
        """[n, p] of a batch, and what the stream lacks if the block's own parts are left out."""
        modules = [part.module for part in own]
        lending = [part for part in parts if part.lent is not None]
        child = self.block.common(lending[0].module, lending[0].lent or {}) if lending else ""
        taken = self.block.taken(number, given.x, modules, leave=False, calls=child)
        assert taken.output is not None
        missing = (given.target.to(taken.output.device) - taken.output).flatten(0, 1)
        columns = []
        for part in parts:
            if part.lent is None:
                found = taken.inputs[part.module].flatten(0, -2)
                missing = missing + found @ part.weight.to(found.dtype).T
                missing = missing + part.constant.to(found.dtype)
            else:
                with self.block.lent(part.lent):
                    found = self.block.again(number, given.x, part.module, child, taken.call)
            columns.append(found.flatten(0, -2))
        return torch.cat(columns, 1), missing

    def chosen(
        self, candidates: Candidates, regression: Regression, prior: Tensor, solution: Solution
    ) -> tuple[Tensor, Tensor]:
        """The units that the seam keeps, and their columns with all that belong to no unit."""
        units = candidates.units
        total = units.count * (1 + len(candidates.donors))
        width = units.channels // units.count
        groups = torch.arange(total * width).view(total, width)
        kept = worth_keeping(
            regression.fitted, prior.to(regression.fitted.gram.device), groups, units.count,
            solution.ridge or _UNDECIDED_RIDGE,
        )  # fmt: skip
        rest = torch.arange(total * width, prior.shape[1])
        return kept, torch.cat([groups[kept].flatten(), rest])

    def error_of_companion(
        self, regression: Regression, parts: Sequence[_Part], present: Tensor,
        companion: BlockWriter | None, ones: bool,
    ) -> float | None:  # fmt: skip
        """The held-out error where only the companion is refitted, from the same sums."""
        if companion is None:
            return None
        stop = present.shape[1] - int(ones)
        width = parts[-1].weight.shape[1]
        columns = torch.arange(stop - width, present.shape[1] if companion.bias else stop)
        part = regression.given(present, columns)
        return part.solve(present[:, columns], COARSE_RIDGES).after * part.share(regression)

    def put_companion(self, companion: BlockWriter, parts: Sequence[_Part], solved: Tensor) -> None:
        """Set the companion from a joint solution; it keeps its bias, the writer takes the rest."""
        linear = Linear(self.block, companion)
        start = sum(part.weight.shape[1] for part in parts[:-1])
        matrix = solved[:, start : start + parts[-1].weight.shape[1]] / companion.factor
        if companion.bias is not None:
            matrix = torch.cat([matrix, linear.matrix[:, -1:]], 1)
        linear.put(matrix)

    def put(
        self, writer: BlockWriter, companion: BlockWriter | None, solved: Tensor,
        kept: Tensor | None,
    ) -> None:  # fmt: skip
        """Set the writer, and the readers of the units that it took over."""
        linear = Linear(self.block, writer)
        channels = linear.matrix.shape[1] - (writer.bias is not None)
        matrix = solved[:, :channels]
        if writer.bias is not None:
            constant = solved[:, -1]
            if companion is not None:
                other = Linear(self.block, companion)
                constant = constant - other.contribution(other.matrix)[1]
            matrix = torch.cat([matrix, constant[:, None]], 1)
        linear.put(matrix / writer.factor)
        if kept is not None:
            candidates = self.candidates[writer.module]
            for name, value in taken_over(self.block, candidates, kept).items():
                self.block.put(name, value)


def _matrix(parts: Sequence[_Part], counted: Sequence[_Part], ones: bool) -> Tensor:
    """[d, p]: the parts' weights side by side, zero where not counted, and their constants."""
    zero = torch.zeros_like
    columns = [
        part.weight if any(part is one for one in counted) else zero(part.weight) for part in parts
    ]
    if ones:
        columns.append(torch.stack([part.constant for part in counted]).sum(0)[:, None])
    return torch.cat(columns, 1)
