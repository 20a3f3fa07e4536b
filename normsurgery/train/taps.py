"""The stream after chosen blocks, taken while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Taps:
    """Hooks on blocks that keep each one's output [rows, time, width] during one forward."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._taken: dict[int, Tensor] = {}
        self._open = False
        for index, block in enumerate(blocks):
            block.register_forward_hook(self._hook(index))

    @contextmanager
    def taken(self) -> Iterator[dict[int, Tensor]]:
        """Position among the tapped blocks → its output, filled as the model runs.

        A backward pass that runs blocks again (checkpointing) comes after, and leaves nothing here.
        """
        self._open = True
        taken = self._taken
        try:
            yield taken
        finally:
            self._open = False
            self._taken = {}

    def _hook(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, arguments: Any, output: Any) -> None:
            if self._open:
                self._taken[index] = output if isinstance(output, Tensor) else output[0]

        return note
