"""What adds to the stream inside a block: found by walking back from what the block returns.

Between a block's input and its output there are additions; one operand of each is the stream, the
other a contribution. Behind a contribution stand the weights that make it: a linear, a stack of
experts, several linears in a sum, perhaps with a norm or a gain between them and the stream. A
numeric witness follows: with all of them silenced every block of the twin must be the identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from normsurgery.anatomy.block_reading import BlockReading
from normsurgery.anatomy.block_reading import BlockWriter as BlockWriter
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.norms import find_norms
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.stacks import Stack, noted_calls, run_twin
from normsurgery.anatomy.trace import trace
from normsurgery.errors import VerificationError

IDENTITY_BOUND = 1e-12  # × the stream's largest entry, in float64


@single_thread()
def block_writers(examination: Examination, stack: Stack) -> tuple[tuple[BlockWriter, ...], ...]:
    """The writers of every block of a stack, in the order in which they are added.

    Raises UnsupportedModelError where a block is not its stream plus what weights make of it
    (post-LN: the stream itself is normalized), VerificationError where the witness disagrees.
    """
    twin = examination.twin
    norms = find_norms(twin.model, twin.shapes)
    with torch.random.fork_rng(devices=[]), Float64():
        torch.manual_seed(0)
        recorded = trace(twin.model, twin.inputs, norms=set(norms))
    calls = {call.name: call for call in recorded.calls}
    shapes = {name: tuple(p.shape) for name, p in twin.model.named_parameters()}
    read = set(recorded.parameters)
    found = tuple(
        BlockReading(block, calls[block], norms, shapes, read).writers() for block in stack.blocks
    )
    with silenced(twin.model, stack, found):
        _witness_identity(examination, stack)
    return found


@contextmanager
def silenced(
    model: nn.Module, stack: Stack, writers: Sequence[Sequence[BlockWriter]]
) -> Iterator[None]:
    """The model with every writer's contribution made zero, as it was afterwards."""
    before: dict[Tensor, Tensor] = {}
    with torch.no_grad():
        for block, own in zip(stack.blocks, writers, strict=True):
            for name, value in silence_of(own).items():
                parameter = model.get_parameter(f"{block}.{name}")
                before.setdefault(parameter, parameter.detach().clone())
                parameter.fill_(value)
        try:
            yield
        finally:
            for changed, values in before.items():
                changed.copy_(values)


def silence_of(writers: Sequence[BlockWriter]) -> dict[str, float]:
    """Parameter of the block → the value that fills it in a block that is to be the identity."""
    return {name: value for writer in writers for name, value in writer.silence.items()}


def _witness_identity(examination: Examination, stack: Stack) -> None:
    with noted_calls(examination.twin.model, stack.blocks) as calls:
        run_twin(examination.twin)
    for call in calls:
        error = float((call.returned - call.taken).abs().max())
        if not error <= IDENTITY_BOUND * float(call.taken.abs().max()):
            raise VerificationError(
                f"{call.block} changes the stream by {error:.1e} although its writers are zero",
                "the trace misread this model: please report its id",
            )
