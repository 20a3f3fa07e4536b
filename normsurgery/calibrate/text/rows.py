"""Rows of token ids that statistics are measured on: right-padded, with a mask."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normsurgery.errors import UsageError


@dataclass(frozen=True)
class TextRows:
    """ids [rows, time] int64, right-padded. mask [rows, time] bool: True at real tokens.

    about: where the text is from ("source"), and the rows, tokens and sha256 of the ids; it goes
    into surgery.json.
    """

    ids: Tensor
    mask: Tensor
    about: dict[str, Any]

    @staticmethod
    def of(rows: Sequence[Sequence[int]], *, pad_id: int = 0, **about: Any) -> TextRows:
        """Rows of different lengths, padded to the longest. about: what is known of the source."""
        width = max((len(row) for row in rows), default=0)
        ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[index, : len(row)] = True
        return TextRows(ids, mask, _described(ids, mask, about))

    @property
    def scored(self) -> Tensor:
        """mask without each row's position 0: models park attention there (arXiv 2309.17453)."""
        scored = self.mask.clone()
        scored[:, :1] = False
        return scored

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return int(self.mask.sum())

    def split(self, share: float, seed: int) -> tuple[TextRows, TextRows]:
        """Whole rows at random: those kept, and the `share` of them that is held out.

        Both parts keep the order of the rows and have at least one. UsageError where that cannot
        be: fewer than two rows, or a share outside (0, 1).
        """
        count = len(self.ids)
        if count < 2 or not 0.0 < share < 1.0:
            raise UsageError(
                f"{count} rows of text cannot be split with a share of {share} held out",
                "give more text, or shorter rows with --max-length",
            )
        held = min(count - 1, max(1, round(share * count)))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        return (
            self._part(order[held:].sort().values, "kept"),
            self._part(order[:held].sort().values, "held out"),
        )

    def at_most(self, tokens: int) -> TextRows:
        """Whole rows spread evenly over these, about so many tokens; all where they are few."""
        count = max(1, len(self.ids) * tokens // max(1, self.tokens))
        if count >= len(self.ids):
            return self
        chosen = torch.arange(count) * len(self.ids) // count
        ids, mask = self.ids[chosen], self.mask[chosen]
        return TextRows(ids, mask, _described(ids, mask, self.about))

    def batches(self, rows: int) -> list[TextRows]:
        """Consecutive batches of at most `rows` rows, each cut to its own longest row."""
        cuts = []
        for start in range(0, len(self.ids), rows):
            mask = self.mask[start : start + rows]
            width = int(mask.sum(1).max())
            ids = self.ids[start : start + rows, :width]
            cuts.append(TextRows(ids, mask[:, :width], self.about))
        return cuts

    def _part(self, chosen: Tensor, part: str) -> TextRows:
        ids, mask = self.ids[chosen], self.mask[chosen]
        return TextRows(ids, mask, _described(ids, mask, {**self.about, "part": part}))


def _described(ids: Tensor, mask: Tensor, about: dict[str, Any]) -> dict[str, Any]:
    """`about` with the counts and the hash of the real tokens, row by row."""
    digest = hashlib.sha256()
    for row, real in zip(ids, mask, strict=True):
        values = row[real].contiguous()
        digest.update(len(values).to_bytes(8, "little"))
        digest.update(values.numpy().tobytes())
    counts = {"rows": len(ids), "tokens": int(mask.sum()), "sha256": digest.hexdigest()}
    return {**about, **counts}
