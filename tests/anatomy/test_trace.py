"""The graph of one forward."""

from __future__ import annotations

import torch
from torch import nn

from normsurgery.anatomy.trace import NORM, trace


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        shape = x.size()
        y = self.linear(self.norm(x)).view(shape)
        z = torch.zeros_like(x)
        y += z.view_as(x)
        if y.sum().item() > 1e9:
            y = y * 2
        head = y[:, 0]
        head.add_(1.0)
        return {"y": y + x, "other": [y, x.shape]}


def _graph():
    model = Toy().eval()
    return trace(model, {"x": torch.randn(2, 3, 4)}, norms={"norm"})


def test_a_norm_is_one_node_and_reads_its_input():
    graph = _graph()
    (norm,) = graph.norm_nodes()
    assert norm.module == "norm"
    assert norm.parents[0].op == "constant"
    assert [consumer.op for consumer in norm.consumers] == ["linear"]


def test_metadata_is_not_a_read():
    graph = _graph()
    x = next(node for node in graph.nodes if node.op == "constant")
    assert {consumer.op for consumer in x.consumers} == {NORM, "add"}


def test_a_host_read_is_a_read():
    graph = _graph()
    item = next(node for node in graph.nodes if node.op == "item")
    assert item.value is None
    assert item.parents[0].op == "sum"


def test_an_in_place_change_makes_a_new_node_and_a_change_through_a_view_is_stale():
    graph = _graph()
    assert any(node.op == "add_" for node in graph.nodes)
    changed = graph.outputs["other.0"]
    assert changed.stale, "y was changed through y[:, 0] behind its node's back"


def test_outputs_are_named_by_their_path_and_parameters_by_their_name():
    graph = _graph()
    assert set(graph.outputs) == {"y", "other.0"}
    assert set(graph.parameters) == {"linear.weight", "linear.bias"}


def test_a_node_runs_again_on_other_values():
    graph = _graph()
    view = next(node for node in graph.nodes if node.op == "view")
    again = view.rerun({view.parents[0]: torch.ones(2, 3, 4)})
    assert torch.equal(again, torch.ones(2, 3, 4))
