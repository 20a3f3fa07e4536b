"""A push is felt where it should be, as far as the next linears."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsurgery.anatomy.push import push, trace_of
from normsurgery.anatomy.twin import Twin


class Attention(nn.Module):
    """softmax(q kᵀ) v between linears. sink: a column that takes a share of every row."""

    def __init__(self, *, sink=False, shows=False):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(6, 6) for _ in range(4))
        self.sink, self.shows = sink, shows

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-1, -2)
        if self.sink:
            scores = torch.cat([scores, scores.new_zeros(*scores.shape[:-1], 1)], dim=-1)
        weights = scores.softmax(-1)[..., : x.shape[-2]]
        mixed = weights @ self.v(x)
        return {"y": self.o(mixed), **({"mixed": mixed} if self.shows else {})}


def twin(**options):
    torch.manual_seed(0)
    model = Attention(**options).double().eval()
    return Twin(model, {"x": torch.randn(2, 5, 6, dtype=torch.float64)}, {})


def pushed(made, name):
    recorded = trace_of(made)
    call = next(c for c in recorded.calls if c.name == name)
    assert call.output is not None and call.output.value is not None
    shift = torch.arange(1.0, 7.0, dtype=torch.float64)
    return push(recorded, call.output, call.output.value + shift), shift


def test_a_constant_comes_through_the_values():
    felt, shift = pushed(twin(), "v")
    (target,) = felt.linears
    assert target.node.module == "o" and not felt.blocked
    gap = felt.changed[target.argument] - target.argument.value
    torch.testing.assert_close(gap, shift.expand_as(gap), rtol=0, atol=1e-12)


def test_not_where_a_sink_takes_a_share():
    felt, shift = pushed(twin(sink=True), "v")
    (target,) = felt.linears
    gap = felt.changed[target.argument] - target.argument.value
    assert not torch.allclose(gap, shift.expand_as(gap), atol=1e-3)


def test_the_softmax_forgets_a_constant_in_the_keys():
    felt, _ = pushed(twin(), "k")
    assert not felt.linears and not felt.blocked
    assert pushed(twin(), "q")[0].linears
    assert pushed(twin(sink=True), "k")[0].linears


def test_what_an_output_shows_is_said():
    felt, _ = pushed(twin(shows=True), "v")
    assert "output" in felt.blocked


def test_a_norm_ends_the_walk():
    torch.manual_seed(0)
    model = nn.Module()
    model.first, model.norm, model.last = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)
    model.forward = lambda x: {"y": model.last(model.norm(model.first(x)))}
    made = Twin(model.double(), {"x": torch.randn(3, 4).double()}, {"norm": (3, 4)})
    recorded = trace_of(made)
    start = next(c.output for c in recorded.calls if c.name == "first")
    assert "norm" in push(recorded, start, start.value + 1).blocked


def test_a_trace_is_made_once():
    made = twin()
    assert trace_of(made) is trace_of(made)
    assert trace_of(made) is not trace_of(twin())


@pytest.mark.parametrize("size", [1e-13, 1.0])
def test_rounding_is_not_felt(size):
    made = twin()
    recorded = trace_of(made)
    start = next(c.output for c in recorded.calls if c.name == "v")
    felt = push(recorded, start, start.value + size)
    assert bool(felt.linears) == (size == 1.0)
