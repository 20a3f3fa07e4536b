"""A causal language model run one block at a time, with one block's weights resident.

What surrounds the blocks (embeddings, final norm, head) stays in memory. The arguments of each
block (masks, rotary tables) are those that the model's own forward gives it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.stacks import Stack
from normsurgery.calibrate.distributed import Processes
from normsurgery.calibrate.passing import Call, Pool, note_calls, tail_logits
from normsurgery.calibrate.states import HiddenStates
from normsurgery.calibrate.text.rows import TextRows
from normsurgery.calibrate.weights import Loader, hollow_model
from normsurgery.calibrate.witness import forms_on_twin
from normsurgery.checkpoint import Checkpoint
from normsurgery.errors import UsageError

_LOGITS_BYTES = 256 << 20  # of one piece of the predictions
_ARGUMENT_BYTES = 512 << 20  # of the blocks' arguments, of which most are masks


class Blockwise:
    """A causal language model whose blocks are loaded and run one by one.

    order: source blocks in the order in which they run (None: all). batches: the rows that this
    process reads. processes: who else reads; batch k belongs to process k mod n.
    directory: where hidden states go that are larger than `memory_limit` bytes (None: half of
    what is free).
    Raises UnsupportedModelError where the model is no causal language model, or where its blocks
    hand each other more than the stream; UsageError for an impossible order or no rows.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        examination: Examination,
        stack: Stack,
        rows: TextRows,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        order: Sequence[int] | None = None,
        batch_rows: int = 8,
        directory: Path | None = None,
        memory_limit: int | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.checkpoint, self.examination, self.stack, self.rows = (
            checkpoint, examination, stack, rows,
        )  # fmt: skip
        self.device, self.dtype = torch.device(device), dtype
        self.order = _checked_order(order, len(stack.blocks))
        self.all_batches = rows.batches(batch_rows)
        if not self.all_batches:
            raise UsageError("there is no text to read", "name some with --data")
        self.processes = processes or Processes()
        if len(self.all_batches) < self.processes.count:
            raise UsageError(
                f"{self.processes.count} processes share {len(self.all_batches)} batches of text",
                "start fewer, or read more tokens",
            )
        self.batches = self.all_batches[self.processes.rank :: self.processes.count]
        self.directory, self.memory_limit = directory, memory_limit
        self.forms = forms_on_twin(examination.twin, stack.blocks)
        self.model = hollow_model(examination, dtype)
        self.blocks = [self.model.get_submodule(name) for name in stack.blocks]
        self.loader = Loader(self.model, checkpoint, examination, device=self.device, dtype=dtype)
        self.loader.fill("", without=stack.blocks)
        _move_buffers(self.model, self.device)
        self._calls: list[list[Call] | None] = [None] * len(self.batches)
        self._pool = Pool(_ARGUMENT_BYTES)

    @property
    def depth(self) -> int:
        """How many blocks run."""
        return len(self.order)

    @property
    def width(self) -> int:
        """Channels of the stream."""
        return self.stack.width

    @property
    def tokens(self) -> int:
        """Real tokens that this process reads."""
        return sum(int(batch.mask.sum()) for batch in self.batches)

    @property
    def scored_tokens(self) -> int:
        """Scored tokens of all processes."""
        return sum(int(batch.scored.sum()) for batch in self.all_batches)

    def reordered(self, order: Sequence[int]) -> Blockwise:
        """The same model and text with another order of blocks; shares all that is in memory."""
        other = copy.copy(self)
        other.order = _checked_order(order, len(self.stack.blocks))
        return other

    def embedded(self, name: str = "stream", limit: int | None = None) -> HiddenStates:
        """The stream before the first block, [rows, time, d] per batch.

        limit: bytes of it that may be held in memory, instead of the engine's.
        """
        _, first = self._noted(0)
        shapes = [(*batch.ids.shape, first.shape[-1]) for batch in self.batches]
        states = HiddenStates(
            shapes,
            self.dtype,
            directory=self.directory,
            limit=self.memory_limit if limit is None else limit,
            name=f"{name}.{self.processes.rank}",
        )
        states[0] = first
        for batch in range(1, len(self.batches)):
            states[batch] = self._noted(batch)[1]
        return states

    def loaded(self, block: int) -> AbstractContextManager[nn.Module]:
        """A context with a source block and its weights; at its end they are given back."""
        return self.loader.filled(self.stack.blocks[block])

    def run(self, module: nn.Module, block: int, batch: int, x: Tensor) -> Tensor:
        """The stream after a block. x: [rows, time, d]; block: the source block that `module` is.

        Runs with the arguments that the model's own forward gives that block; gradients flow if
        they are switched on.
        """
        call = self._arguments(batch)[block]
        return self.forms[block].stream(call(module, x.to(self.device, self.dtype)))

    def through(self, module: nn.Module, block: int, states: HiddenStates) -> None:
        """Run a loaded block over all batches, and replace the states by its output."""
        with torch.no_grad():
            for batch in range(len(self.batches)):
                states[batch] = self.run(module, block, batch, states[batch])

    def advance(self, block: int, states: HiddenStates) -> None:
        """The same, loading the block first."""
        with self.loaded(block) as module:
            self.through(module, block, states)

    def token_losses(self, states: HiddenStates) -> list[Tensor]:
        """Cross-entropy in nats of every scored token, in row order, per batch: float64 [n].

        states: the stream after the last block. The final norm, head and whatever else follows
        (soft caps, scales) are those of the model's own forward.
        """
        with torch.no_grad():
            return [
                self.batch_losses(batch, states[batch]).double().cpu()
                for batch in range(len(self.batches))
            ]

    def batch_losses(self, batch: int, x: Tensor) -> Tensor:
        """Cross-entropy in nats of a batch's scored tokens, in row order: [n] on the device.

        x: [rows, time, d], the stream after the last block.
        """
        pieces = self.pieces(batch)
        return torch.cat([self.piece_losses(batch, piece, x[piece]) for piece in pieces])

    def pieces(self, batch: int) -> list[slice]:
        """Rows of a batch whose predictions fit into memory at once."""
        rows, time = self.batches[batch].ids.shape
        head = self.model.get_output_embeddings()
        width = int(head.weight.shape[0]) if head is not None else 1 << 17
        step = max(1, _LOGITS_BYTES // (time * width * self.dtype.itemsize))
        return [slice(row, row + step) for row in range(0, rows, step)]

    def piece_losses(self, batch: int, piece: slice, x: Tensor) -> Tensor:
        """`batch_losses` of some rows. x: the stream of these rows."""
        rows = self.batches[batch]
        ids = rows.ids[piece].to(self.device)
        scored = rows.scored[piece, 1:].to(self.device)
        logits = self.logits(ids, x.to(self.device, self.dtype))[:, :-1][scored]
        return nn.functional.cross_entropy(logits, ids[:, 1:][scored], reduction="none")

    def logits(self, ids: Tensor, x: Tensor) -> Tensor:
        """[rows, time, vocabulary] of the model's own tail. x: the stream after the last block."""
        return tail_logits(self.model, self.blocks, self.forms, ids, x)

    def _arguments(self, batch: int) -> list[Call]:
        """What the blocks are given beside the stream; made again where it was too much to keep."""
        calls = self._calls[batch]
        return self._noted(batch)[0] if calls is None else calls

    def _noted(self, batch: int) -> tuple[list[Call], Tensor]:
        """Run the model up to its blocks: their arguments, and the stream before them."""
        ids = self.batches[batch].ids.to(self.device)
        passed_by = self._pool.passed_by
        try:
            with torch.no_grad():
                calls, stream = note_calls(self.model, self.blocks, self.forms, ids, self._pool)
        except IndexError as error:
            raise UsageError(
                f"the model cannot read rows of {ids.shape[1]} tokens with ids up to "
                f"{int(ids.max())}: {error}",
                "its own tokenizer, and a smaller --max-length, may help",
            ) from error
        if self._pool.passed_by == passed_by:
            self._calls[batch] = calls
        return calls, stream


def _checked_order(order: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    if order is None:
        return tuple(range(depth))
    for block in order:
        if not 0 <= block < depth:
            raise UsageError(f"there is no block {block}: the stack has {depth}, from 0")
    return tuple(order)


def _move_buffers(model: nn.Module, device: torch.device) -> None:
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
