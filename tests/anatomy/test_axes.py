"""Channels are followed through whatever only moves them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normsurgery.anatomy.axes import child_axis, parent_axis
from normsurgery.anatomy.trace import trace

CASES = {
    "view": (lambda x: x.view(6, 5), 1),
    "permute": (lambda x: x.permute(2, 0, 1), 0),
    "transpose": (lambda x: x.transpose(1, 2), 1),
    "slice of tokens": (lambda x: x[:, 1:], 2),
    "one token": (lambda x: x[:, 0], 1),
    "cat of tokens": (lambda x: torch.cat([x, torch.ones(2, 1, 5)], 1), 2),
    "mean over tokens": (lambda x: x.mean(1), 1),
    "masked fill with zero": (lambda x: x.masked_fill(torch.ones(2, 3, 1).bool(), 0.0), None),
    "expand": (lambda x: x[:1].expand(4, 3, 5), 2),
    "index select": (lambda x: x.index_select(1, torch.tensor([2, 0])), 2),
    "interpolate": (lambda x: F.interpolate(x.transpose(1, 2), size=7), 1),
    "slice of channels": (lambda x: x[..., :3], None),
    "split of channels": (lambda x: x.view(2, 3, 5, 1).flatten(1, 2), None),
    "flip of channels": (lambda x: x.flip(-1), None),
    "roll of tokens": (lambda x: x.roll(1, 1), 2),
}


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return {"out": self.function(x)}


@pytest.mark.parametrize("name", CASES)
def test_the_channel_axis_comes_out_where_it_is_or_nowhere(name):
    function, expected = CASES[name]
    graph = trace(Apply(function), {"x": torch.randn(2, 3, 5)}, norms=set())
    node, axis = next(node for node in graph.nodes if node.op == "constant"), 2
    found: int | None = axis
    while node is not graph.outputs["out"] and found is not None:
        consumer = node.consumers[-1]
        found = child_axis(consumer, node, found)
        if found is not None:
            back = parent_axis(consumer, found, node)
            assert back is not None
        node = consumer
    assert found == expected
