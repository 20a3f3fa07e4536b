"""Runs of channels of a fused reader."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from normsurgery.train.norms.fused import Layout


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_rows_and_back(pattern: list[int], repeats: int) -> None:
    owners = pattern * repeats
    present = sorted(set(owners))
    parts = [[c for c, owner in enumerate(owners) if owner == one] for one in present]
    layout = Layout(parts)
    values = torch.randn(2, 3, len(owners), generator=torch.Generator().manual_seed(0))
    weight = torch.randn(len(owners), 5, generator=torch.Generator().manual_seed(1))
    made = [layout.rows(values, number, -1) for number in range(len(parts))]
    for number, channels in enumerate(parts):
        assert torch.equal(made[number], values[..., channels])
        assert torch.equal(layout.rows(weight, number, 0), weight[channels])
        assert torch.equal(layout.rows(weight[:, 0], number, 0), weight[channels, 0])
    assert torch.equal(layout.together(made), values)


def test_one_run_is_a_view() -> None:
    weight = torch.randn(12, 4)
    rows = Layout([range(8), range(8, 12)]).rows(weight, 1, 0)
    assert rows.data_ptr() == weight[8:].data_ptr()
