"""ReplaceMe: one linear map in place of dropped blocks, folded into the seam's MLP.

Source: "ReplaceMe: Network Simplification via Layer Pruning and Linear Transformations",
arXiv 2505.02819. With m the MLP's output at the seam, a everything else there, and x′ the stream
behind the cut: T = argmin Σ |a + m T − x′|² (rows), or T that minimises Σ 1 − cos(a + m T, x′) by
Adam from the identity. W_down ← Tᵀ W_down and b ← Tᵀ b for every weight that the MLP writes with,
routed and shared experts included, because their sum is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.block_writers import BlockWriter
from normsurgery.calibrate.fit.block_fit import Batch
from normsurgery.calibrate.fit.blocks import LoadedBlock
from normsurgery.calibrate.fit.gram import Regression, cholesky
from normsurgery.errors import UnsupportedModelError

OBJECTIVES = ("squares", "cosine")
_STEP = 1e-4  # of Adam, and rows of its batches: those of the paper's code
_ROWS = 1024
_EPOCHS = 10


class ReplaceMe:
    """The fit of T at one seam. batch, reduce: as in BlockFit. ridge: α / mean diag(MᵀM).

    sum_gradient: adds up several processes' gradients of T.
    Raises UnsupportedModelError where a norm or a gain stands between the MLP and the stream.
    """

    def __init__(
        self, block: LoadedBlock, writers: Sequence[BlockWriter], batch: Callable[[int], Batch],
        reduce: Callable[[Regression], None], *, ridge: float = 0.0,
        sum_gradient: Callable[[Tensor], Tensor] = lambda gradient: gradient,
    ) -> None:  # fmt: skip
        self.block, self.mlp, self.batch, self.reduce = block, writers[-1], batch, reduce
        self.ridge, self.sum_gradient = ridge, sum_gradient
        for writer in (self.mlp, *self.mlp.siblings):
            _check_foldable(block, writer)
        self.silence: Mapping[str, Tensor] = {
            name: torch.full_like(block.module.get_parameter(name).data, value)
            for name, value in self.mlp.silence.items()
        }

    def run(self, objective: str) -> dict[str, Any]:
        """Fit T and fold it; the line for the record."""
        regression = self.moments()
        width = regression.held.cross.shape[1]
        identity = torch.eye(width, dtype=torch.float64, device=regression.held.cross.device)
        if objective == "squares":
            transform = least_squares(regression, self.ridge)
        else:
            transform = self.cosine(width)
        for writer in (self.mlp, *self.mlp.siblings):
            self.fold(writer, transform)
        return {
            "block": self.block.index, "writer": self.mlp.module, "ridge": self.ridge,
            "before": regression.held.error(identity), "after": regression.held.error(transform.T),
            "accepted": True,
        }  # fmt: skip

    def rows(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """m, R = x′ − a and x′ of a batch's counted tokens, [n, d] each, and which are held out."""
        given = self.batch(number)
        whole = self.block.run(number, given.x)
        with self.block.lent(self.silence):
            rest = self.block.run(number, given.x)
        target = given.target.to(rest.device)
        counted = (given.weight > 0).to(rest.device)
        pieces = (whole - rest, target - rest, target)
        m, missing, wanted = (piece[counted] for piece in pieces)
        return m, missing, wanted, given.held.to(rest.device)[counted]

    def moments(self) -> Regression:
        """The sums of all batches; every counted token has the same weight, as in the paper."""
        regression: Regression | None = None
        for number in range(len(self.block.blockwise.batches)):
            m, missing, _, held = self.rows(number)
            if regression is None:
                regression = Regression.empty(m.shape[1], missing.shape[1], m.device)
            regression.add(m, missing, torch.ones_like(m[:, 0]), held)
        assert regression is not None
        self.reduce(regression)
        return regression

    def cosine(self, width: int) -> Tensor:
        """T by Adam on the mean cosine distance, from the identity: [d, d], float64."""
        device = self.block.blockwise.device
        transform = torch.eye(width, device=device, requires_grad=True)
        adam = torch.optim.Adam([transform], lr=_STEP)
        for _ in range(_EPOCHS):
            for number in range(len(self.block.blockwise.batches)):
                m, missing, target, _ = self.rows(number)
                for start in range(0, len(m), _ROWS):
                    piece = slice(start, start + _ROWS)
                    self.step(adam, transform, m[piece], missing[piece], target[piece])
        return transform.detach().double()

    def step(
        self, adam: torch.optim.Adam, transform: Tensor, m: Tensor, missing: Tensor, target: Tensor
    ) -> None:
        """One step of Adam; no weight of the model has a gradient."""
        with torch.enable_grad():
            rest = (target - missing).float()
            made = rest + m.float() @ transform
            loss = 1.0 - torch.cosine_similarity(made, target.float(), dim=-1)
            adam.zero_grad()
            loss.mean().backward()  # type: ignore[no-untyped-call]
        assert transform.grad is not None
        transform.grad.copy_(self.sum_gradient(transform.grad))
        adam.step()

    def fold(self, writer: BlockWriter, transform: Tensor) -> None:
        """W ← Tᵀ W and b ← Tᵀ b. Experts have a leading axis of their own."""
        weight = self.block.value(writer.weight)
        self.block.put(
            writer.weight, weight @ transform if writer.transposed else transform.T @ weight
        )
        if writer.bias is not None:
            self.block.put(writer.bias, self.block.value(writer.bias) @ transform)


def least_squares(regression: Regression, ridge: float) -> Tensor:
    """T = (MᵀM + αI)⁻¹ MᵀR over all rows, held out or not (as the paper does): [d, d], float64.

    ridge: α, × the mean of the diagonal of MᵀM.
    """
    gram = regression.fitted.gram + regression.held.gram
    cross = regression.fitted.cross + regression.held.cross
    return torch.cholesky_solve(cross, cholesky(gram, ridge))


def _check_foldable(block: LoadedBlock, writer: BlockWriter) -> None:
    place = f"{block.blockwise.stack.blocks[block.index]}.{writer.module}"
    between = f"norm ({writer.norm})" if writer.norm is not None else None
    if writer.gain is not None:
        between = f"gain ({writer.gain})"
    if between is not None:
        raise UnsupportedModelError(
            f"a {between} stands between {place} and the stream, so no linear map of what the "
            "stream gets can be folded into its weight",
            "drop the blocks as they are: --substitute none",
        )
