"""What each token of a forward is: padding, the first of its row, the end of a text, or ordinary.

The first position and the end of a text have norms far from all others (block 6 of GPT-2 small:
2.8 elsewhere, 108 at position 0), so each kind has a σ̂ of its own for as long as training asks.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

PAD, ORDINARY, FIRST, END = range(4)


@dataclass
class Tokens:
    """The kinds of one forward's tokens.

    table: [batch, time], None where the model takes no text. started: whether a cache holds the
    positions before these. counted: whether this forward's statistics count.
    """

    table: Tensor | None
    started: bool
    counted: bool
    _flat: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def kinds(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """The kind of each row of a tensor [*shape, width], flat."""
        return self._of(tuple(shape), device)[0]

    def weights(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """The same as a table of ones: float32 [rows, kinds]."""
        return self._of(tuple(shape), device)[1]

    def _of(self, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        found = self._flat.get(shape)
        if found is None or found[0].device != device:
            kinds = self._spread(shape, device).flatten()
            found = self._flat[shape] = (kinds, nn.functional.one_hot(kinds, 4).float())
        return found

    def _spread(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Kinds of that shape: rows of tokens, perhaps flat, perhaps with heads."""
        table = self.table
        if table is not None:
            batch, time = table.shape
            table = table.to(device)
            if shape[:2] == (batch, time):
                return table.view(batch, time, *[1] * (len(shape) - 2)).expand(shape)
            if shape[:1] == (batch * time,):
                return table.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
            if len(shape) == 3 and (shape[0], shape[2]) == (batch, time):  # heads before time
                return table[:, None].expand(shape)
        kinds = torch.full(shape, ORDINARY, device=device)
        if table is None and len(shape) == 2 and not self.started:
            kinds[:, 0] = FIRST
        return kinds


def argument_names(model: nn.Module) -> tuple[str, ...]:
    """The parameters of a model's forward, in order."""
    return tuple(inspect.signature(model.forward).parameters)


def read_tokens(arguments: Mapping[str, Any], end: int | None, *, counted: bool) -> Tokens:
    """The kinds of a forward's tokens from its named arguments.

    Pads are what `attention_mask` [batch, time] hides, on the left or on the right; the first
    token of a row is the first that is no pad (or stands at position 0 of `position_ids`), unless
    a cache holds it. end: id of the end of a text, None where it has none.
    """
    shape = _shape(arguments)
    past = _past(arguments.get("past_key_values"))
    if shape is None:
        return Tokens(None, past > 0, counted)
    batch, time = shape
    mask = _mask(arguments, batch, past + time)
    where = slice(past, past + time)
    present = mask[:, where]
    first = present & (mask.cumsum(1)[:, where] == 1)
    positions = arguments.get("position_ids")
    if isinstance(positions, Tensor) and positions.shape[-2:] in ((batch, time), (1, time)):
        zero = positions.reshape(-1, *positions.shape[-2:])[0] == 0
        first = first | (present & zero.to(mask.device))
    table = torch.where(present, ORDINARY, PAD)
    ids = arguments.get("input_ids")
    if end is not None and isinstance(ids, Tensor):
        table = torch.where(present & (ids == end), END, table)
    return Tokens(torch.where(first, FIRST, table), past > 0, counted)


def _shape(arguments: Mapping[str, Any]) -> tuple[int, int] | None:
    for name in ("input_ids", "inputs_embeds"):
        value = arguments.get(name)
        if isinstance(value, Tensor) and value.dim() >= 2:
            return value.shape[0], value.shape[1]
    return None


def _past(cache: Any) -> int:
    length = getattr(cache, "get_seq_length", None)
    return int(length()) if length is not None else 0


def _mask(arguments: Mapping[str, Any], batch: int, length: int) -> Tensor:
    """True at tokens that are no pads, over what the cache holds and what is new."""
    mask = arguments.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= length:
        return mask[:, :length].bool()
    given = next(
        arguments[n] for n in ("input_ids", "inputs_embeds") if arguments.get(n) is not None
    )
    if isinstance(mask, Tensor) and mask.dim() == 2:  # of the new tokens alone
        held = torch.ones(batch, length - mask.shape[1], dtype=torch.bool, device=mask.device)
        return torch.cat([held, mask.bool()], 1)
    return torch.ones(batch, length, dtype=torch.bool, device=given.device)
