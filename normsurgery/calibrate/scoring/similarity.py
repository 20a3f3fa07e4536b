"""angular, influence and fit of all windows of one size, from one pass through the model.

A token's stream before each of the last n + 1 blocks, and what the MLPs between them added, is
kept for a fixed sample of tokens; when a window closes, its scores follow. `influence` needs no
memory and looks at every token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.resume import WorkPart
from normsurgery.calibrate.scoring.sample import Sample
from normsurgery.calibrate.scoring.seams import Seam
from normsurgery.calibrate.states import HiddenStates
from normsurgery.report.progress import Progress, Silent

Taken = list[Tensor]  # per batch, [k, d]: a sample's rows


@dataclass
class Similarity:
    """The pass and what it has found; `angular`, `influence`, `fit` by window start afterwards.

    angles: the sample that `angular` looks at. fitted: the one of `fit`. seams: per source block.
    ridge: of the fit's regression, relative to the mean of the Gram matrix's diagonal.
    """

    engine: Blockwise
    size: int
    methods: Collection[str]
    angles: Sample
    fitted: Sample
    seams: Sequence[Seam | None]
    ridge: float = 1e-4
    cosines: list[float] = field(default_factory=list)  # mean over tokens, per place
    angular: list[float | None] = field(default_factory=list)
    fit: list[float | None] = field(default_factory=list)
    # place → the samples of the stream before that block, and of what its MLP adds
    before: dict[int, dict[str, Taken]] = field(default_factory=dict)
    added: dict[int, Taken] = field(default_factory=dict)
    norms: Taken = field(default_factory=list)

    @property
    def influence(self) -> list[float | None]:
        """Σ over the window of 1 − E cos(x_l, x_{l+1})."""
        starts = range(len(self.cosines) - self.size + 1)
        return [sum(1 - cos for cos in self.cosines[at : at + self.size]) for at in starts]

    def run(self, part: WorkPart | None = None, progress: Progress | None = None) -> None:
        """Go through all blocks, after those that an interrupted run had finished."""
        engine = self.engine
        place, states = self._begun(part)
        total = (engine.depth - place) * engine.tokens
        with (progress or Silent()).task("scores", total, "tokens") as advance:
            for at in range(place, engine.depth):
                self._block(at, states)
                advance(engine.tokens)
                if part is not None:
                    part.save(at + 1, self._state(states if at + 1 < engine.depth else None))
        states.close()

    def _begun(self, part: WorkPart | None) -> tuple[int, HiddenStates]:
        found = part.load() if part is not None else None
        states = self.engine.embedded()
        if found is None:
            with torch.no_grad():
                self._take(0, [states[batch] for batch in range(len(states))])
                for batch in range(len(states)):
                    self.norms.append(_wide(states[batch].to(self.engine.device)).norm(dim=-1))
            return 0, states
        place, state = found
        for name in ("cosines", "angular", "fit", "before", "added", "norms"):
            setattr(self, name, state[name])
        for batch, value in enumerate(state["stream"]):
            states[batch] = value
        return place, states

    def _state(self, states: HiddenStates | None) -> dict[str, Any]:
        stream = [] if states is None else [states[batch] for batch in range(len(states))]
        return {
            "cosines": self.cosines, "angular": self.angular, "fit": self.fit,
            "before": self.before, "added": self.added, "norms": self.norms, "stream": stream,
        }  # fmt: skip

    def _take(self, place: int, streams: Taken) -> None:
        self.before[place] = {
            name: [_wide(sample.take(batch, x)) for batch, x in enumerate(streams)]
            for name, sample in self._samples.items()
        }

    @property
    def _samples(self) -> dict[str, Sample]:
        wanted = {"angular": self.angles, "fit": self.fitted}
        if self.angles is self.fitted and "fit" in self.methods:
            wanted.pop("angular")
        return {name: sample for name, sample in wanted.items() if name in self.methods}

    def _block(self, place: int, states: HiddenStates) -> None:
        """Run the block at `place` over all batches; close the window that ends with it."""
        engine, block = self.engine, self.engine.order[place]
        samples = self._samples
        after: dict[str, Taken] = {name: [] for name in samples}
        added: Taken = []

        def see(made: Tensor) -> None:
            added.append(_wide(self.fitted.take(len(added), made)).cpu())

        seam = self.seams[block] if "fit" in self.methods else None
        total = torch.zeros((), dtype=torch.float64)
        with engine.loaded(block) as module, torch.no_grad(), seeing(seam, module, see):
            for batch in range(len(engine.batches)):
                x = states[batch].to(engine.device)
                y = engine.run(module, block, batch, x)
                if "influence" in self.methods:
                    total += self._cosine(batch, x, y).cpu()
                for name, sample in samples.items():
                    after[name].append(_wide(sample.take(batch, y)).cpu())
                states[batch] = y
        if "influence" in self.methods:
            self.cosines.append(float(engine.processes.sum(total)) / engine.scored_tokens)
        self.before[place + 1] = after
        if seam is not None:
            factor = seam.factor
            self.added[place] = added if factor == 1.0 else [made * factor for made in added]
        self._close(place + 1 - self.size)

    def _cosine(self, batch: int, x: Tensor, y: Tensor) -> Tensor:
        """Σ over a batch's scored tokens of cos(x, y), float64."""
        x, y = _wide(x), _wide(y)
        norms = y.norm(dim=-1)
        dots = torch.linalg.vecdot(x, y)
        cosines = dots / (self.norms[batch] * norms).clamp_min(torch.finfo(dots.dtype).tiny)
        self.norms[batch] = norms
        scored = self.engine.batches[batch].scored.to(cosines.device)
        total: Tensor = cosines[scored].double().sum()
        return total

    def _close(self, start: int) -> None:
        """The scores of the window that begins at `start`, and what no later window needs."""
        if start >= 0:
            if "angular" in self.methods:
                self.angular.append(self._angle(start))
            if "fit" in self.methods:
                self.fit.append(self._unexplained(start))
            del self.before[start]
        self.added.pop(start - 1, None)

    def _angle(self, start: int) -> float:
        name = "angular" if "angular" in self._samples else "fit"
        before, after = self.before[start][name], self.before[start + self.size][name]
        total = torch.zeros((), dtype=torch.float64)
        for x, y in zip(before, after, strict=True):
            cosines = torch.nn.functional.cosine_similarity(x.double(), y.double(), dim=-1)
            total += cosines.clamp(-1, 1).arccos().sum() / torch.pi
        return float(self.engine.processes.sum(total)) / max(1, self.angles.tokens)

    def _unexplained(self, start: int) -> float | None:
        """What a linear map of m leaves of x_{s+n} − a; m, a: of the block before the window.

        Each token counts by its error relative to the length of x_{s+n}, since the norms behind
        see directions only. So all windows have one scale: relative to the target itself, a
        window behind an MLP that adds much would look well fitted.
        """
        made = self.added.get(start - 1)
        if made is None:
            return None
        sums: Tensor | None = None
        before, after = self.before[start]["fit"], self.before[start + self.size]["fit"]
        for m, x, y in zip(made, before, after, strict=True):
            lengths = y.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(y.dtype).tiny)
            target = (y - x + m) / lengths
            m = m / lengths
            squares = (target * target).sum(0, keepdim=True)
            # float32 products of one batch, summed in float64
            own = torch.cat([m.T @ m, m.T @ target, squares]).double()
            sums = own if sums is None else sums.add_(own)
        assert sums is not None
        return _residual(self.engine.processes.sum(sums), self.fitted.tokens, self.ridge)


def _residual(sums: Tensor, tokens: int, ridge: float) -> float:
    """Mean squared error per token of the ridge regression of R on M, had it been seen before.

    sums: [2 d + 1, d] float64: MᵀM, then MᵀR, then a row of Σ R². Corrected for the degrees of
    freedom of the fit: with few tokens for its regressors it would look good everywhere.
    """
    width = sums.shape[1]
    gram, cross, total = sums[:width], sums[width:-1], float(sums[-1].sum())
    strength = ridge * float(gram.diagonal().mean()) or 1.0
    factor = torch.linalg.cholesky(gram + strength * torch.eye(width, dtype=gram.dtype))
    solution = torch.cholesky_solve(cross, factor)
    freedom = width - strength * float(torch.cholesky_inverse(factor).diagonal().sum())
    left = total - 2 * float((solution * cross).sum()) + float((solution * (gram @ solution)).sum())
    return max(left, 0.0) / max(tokens - freedom, 1.0)


def seeing(seam: Seam | None, module: Any, see: Any) -> Any:
    """The context of a seam that is watched, or of nothing."""
    from contextlib import nullcontext

    return nullcontext() if seam is None else seam.seen(module, see)


def _wide(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()
