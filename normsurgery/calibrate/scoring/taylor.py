"""First-order importance of blocks, Σ |g · w| over a block's weights.

"Are Sixteen Heads Really Better than One?" (arXiv 1905.10650) and LLM-Pruner (arXiv 2305.11627).
The backward pass is streamed as the forward is: each block is loaded, run again on the input it
had, and hands the gradient of the loss with respect to the stream to the block before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.states import HiddenStates
from normsurgery.report.progress import Progress, Silent
from normsurgery.verify.load import available_memory_bytes


def taylor_scores(engine: Blockwise, *, progress: Progress | None = None) -> list[float]:
    """Σ |g · w| of each block in the engine's order; the loss is the mean over scored tokens.

    Holds the input of every block: what is above the engine's limit goes to its directory.
    """
    work = (progress or Silent()).task("gradients", 3 * engine.depth * engine.tokens, "tokens")
    with work as advance:
        inputs = _inputs(engine)
        gradients = inputs.pop()
        for batch in range(len(engine.batches)):
            gradients[batch] = _tail_gradient(engine, batch, gradients[batch])
        advance(engine.depth * engine.tokens)
        scores = []
        for place in reversed(range(engine.depth)):
            scores.append(_block(engine, engine.order[place], inputs[place], gradients))
            inputs.pop().close()
            advance(2 * engine.tokens)
        gradients.close()
    return scores[::-1]


def window_sums(scores: list[float], size: int) -> list[float]:
    """Σ of a score of single blocks over each window."""
    return [sum(scores[start : start + size]) for start in range(len(scores) - size + 1)]


def _inputs(engine: Blockwise) -> list[HiddenStates]:
    """The stream before every block, and after the last one."""
    limit = engine.memory_limit
    limit = available_memory_bytes() // 2 if limit is None else limit
    rank = engine.processes.rank
    found = [engine.embedded("input.0", limit // (engine.depth + 2))]
    for place, block in enumerate(engine.order):
        found.append(found[-1].copy(f"input.{place + 1}.{rank}"))
        with engine.loaded(block) as module:
            engine.through(module, block, found[-1])
    return found


def _tail_gradient(engine: Blockwise, batch: int, x: Tensor) -> Tensor:
    """[rows, time, d]: of the mean loss with respect to the stream after the last block."""
    gradient = torch.zeros_like(x)
    with torch.enable_grad():
        for piece in engine.pieces(batch):
            leaf = x[piece].to(engine.device, engine.dtype).detach().requires_grad_()
            loss = engine.piece_losses(batch, piece, leaf).sum() / engine.scored_tokens
            (found,) = torch.autograd.grad(loss, leaf)
            gradient[piece] = found.to(gradient.device)
    return gradient


def _block(engine: Blockwise, block: int, inputs: HiddenStates, gradients: HiddenStates) -> float:
    """Σ |g · w| of a block; replaces the gradients by those with respect to its input."""
    with engine.loaded(block) as module, torch.enable_grad():
        weights = [w for w in module.parameters() if w.is_floating_point()]
        for weight in weights:
            weight.requires_grad_()
        for batch in range(len(engine.batches)):
            leaf = inputs[batch].to(engine.device, engine.dtype).detach().requires_grad_()
            y = engine.run(module, block, batch, leaf)
            torch.autograd.backward(y, gradients[batch].to(y))
            assert leaf.grad is not None
            gradients[batch] = leaf.grad
        return sum(_importance(engine, weight) for weight in weights)


def _importance(engine: Blockwise, weight: nn.Parameter) -> float:
    if weight.grad is None:  # experts that no token was sent to
        gradient = torch.zeros_like(weight)
    else:
        gradient = weight.grad
    gradient = engine.processes.sum(gradient.double())
    weight.grad = None
    return float((gradient * weight.detach().double()).abs().sum())
