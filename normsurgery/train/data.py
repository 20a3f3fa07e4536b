"""Rows of token ids as a dataset of transformers.Trainer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from normsurgery.calibrate.text.rows import TextRows
from normsurgery.train.losses import targets_of


class RowsDataset(Dataset[dict[str, Tensor]]):
    """One item a row: input_ids, attention_mask and labels, each [time]."""

    def __init__(self, rows: TextRows) -> None:
        self._ids, self._mask = rows.ids, rows.mask
        self._labels = targets_of(rows.ids, rows.mask)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "input_ids": self._ids[index],
            "attention_mask": self._mask[index].long(),
            "labels": self._labels[index],
        }


def collate(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch, cut to its own longest row."""
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    width = int(batch["attention_mask"].sum(1).max())
    return {name: values[:, :width] for name, values in batch.items()}
