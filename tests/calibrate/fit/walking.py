"""Tiny models, ready for a walk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from normsurgery.anatomy.block_writers import BlockWriter, block_writers
from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.stacks import choose_stack, read_stacks
from normsurgery.calibrate.blockwise import Blockwise
from normsurgery.calibrate.fit.sequential import Fitted, Plan, refit_and_heal
from normsurgery.checkpoint import open_checkpoint
from tests.calibrate.language_models import LANGUAGE_MODELS, text_rows
from tests.families import build_spec


@dataclass(frozen=True)
class Tiny:
    """A tiny model on text, run in float64."""

    engine: Blockwise
    writers: tuple[tuple[BlockWriter, ...], ...]

    def fitted(self, *dropped: int, **options: Any) -> Fitted:
        depth = len(self.engine.stack.blocks)
        order = tuple(block for block in range(depth) if block not in dropped)
        return refit_and_heal(self.engine, self.writers, Plan(order, **options))

    def streams(self) -> list[torch.Tensor]:
        """The stream before each block and after the last, [rows, time, d]."""
        states = self.engine.embedded()
        found = [torch.cat([states[batch] for batch in range(len(states))])]
        for block in range(len(self.engine.stack.blocks)):
            self.engine.advance(block, states)
            found.append(torch.cat([states[batch] for batch in range(len(states))]))
        return found


def tiny(name: str, directory: Path, *, rows: int = 40, time: int = 24, **options: Any) -> Tiny:
    """A family of `LANGUAGE_MODELS` with `rows` rows of random text."""
    build_spec(LANGUAGE_MODELS[name], directory / name)
    checkpoint = open_checkpoint(directory / name)
    examination = examine(checkpoint)
    stack = choose_stack(read_stacks(examination))
    engine = Blockwise(
        checkpoint, examination, stack, text_rows(*([time] * rows)),
        **{"batch_rows": 5, "dtype": torch.float64, **options},
    )  # fmt: skip
    return Tiny(engine, block_writers(examination, stack))
