"""Numbers of a configuration: where they act, and which weights can hold them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from normsurgery.anatomy.absorb import absorb
from normsurgery.anatomy.norms import find_norms, noted_shapes
from normsurgery.anatomy.push import trace_of
from normsurgery.anatomy.scaling_sites import UnmovedError, numbers_of, sites_of
from normsurgery.anatomy.twin import Twin


class Model(nn.Module):
    """A table, a norm and linears. rule: what is done with the number s."""

    def __init__(self, rule, s):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.norm = nn.Embedding(9, 6), nn.LayerNorm(6)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.rule, self.s = rule, s

    def forward(self, ids):
        return {"y": self.rule(self, ids)}


def tied(model, ids):
    hidden = model.norm(model.first(model.table(ids) * model.s))
    return nn.functional.linear(hidden, model.table.weight)


RULES = {
    "table": lambda m, ids: m.head(m.norm(m.first(m.table(ids) * m.s))),
    "divided": lambda m, ids: m.head(silu(m.first(m.table(ids)) / m.s)),
    "norm": lambda m, ids: m.head(silu(m.norm(m.table(ids)) * m.s)),
    "after": lambda m, ids: m.head(silu(m.first(m.table(ids))) * m.s),
    "gate": lambda m, ids: m.head(silu(m.first(m.table(ids))) * m.second(m.table(ids)) * m.s),
    "weighed": lambda m, ids: silu(m.first(m.table(ids))) * m.s * m.second(m.table(ids)),
    "tied": tied,
}
NOT = {
    "nothing": (lambda m, ids: m.head(m.table(ids)), None),
    "power": (lambda m, ids: m.head(m.table(ids) ** m.s), "uses it in"),
    "added": (lambda m, ids: m.head(m.table(ids) + m.s), "uses it in"),
    "under": (
        lambda m, ids: m.head(torch.div(torch.tensor(m.s), m.table(ids))),
        "divides it by a tensor",
    ),
    "other functions": (
        lambda m, ids: m.head(m.table(ids) * m.s if m.s != 1 else m.table(ids)),
        "other functions run without it",
    ),
    "shown": (lambda m, ids: silu(m.first(m.table(ids))) * m.s, "stands before it"),
    "read twice": (
        lambda m, ids: (lambda h: m.head(silu(h * m.s)) + m.head(h))(m.first(m.table(ids))),
        "reads what it multiplies too",
    ),
}


def found(rule, s=3.0, plain=1.0):
    ids = torch.arange(6).view(2, 3)
    twins = []
    for value in (s, plain):
        model = Model(rule, value).double().eval()
        with noted_shapes(model) as shapes, torch.no_grad():
            model(ids)
        twins.append(Twin(model, {"ids": ids}, dict(shapes)))
    norms = find_norms(twins[0].model, twins[0].shapes)
    sites = sites_of(SimpleNamespace(twin=twins[0]), twins[1])
    return twins, sites, absorb(trace_of(twins[0]), norms, sites)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("table", {"table.weight": 1}),
        ("divided", {"first.weight": 1, "first.bias": 1}),
        ("norm", {"norm.weight": 1, "norm.bias": 1}),
        ("after", {"head.weight": 1}),
        ("gate", {"second.weight": 1, "second.bias": 1}),
        ("weighed", {"second.weight": 1, "second.bias": 1}),
        ("tied", {"table.weight": 1, "norm.weight": -1, "norm.bias": -1}),
    ],
)
def test_the_weights_hold_the_number(name, weights):
    twins, sites, powers = found(RULES[name])
    assert powers == weights
    (site,) = sites
    assert site.factor == pytest.approx(1 / 3 if name == "divided" else 3)
    source, result = (twin.model for twin in twins)
    ids = twins[0].inputs["ids"]
    with torch.no_grad():
        before = result(ids)["y"].clone()
        for parameter, power in powers.items():
            result.get_parameter(parameter).mul_(site.factor**power)
        torch.testing.assert_close(result(ids)["y"], source(ids)["y"], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(before, source(ids)["y"], rtol=1e-3)


@pytest.mark.parametrize("name", NOT)
def test_what_no_weight_can_hold(name):
    rule, reason = NOT[name]
    if reason is None:
        assert found(rule)[1] == []
        return
    with pytest.raises(UnmovedError, match=reason):
        found(rule)


def test_a_number_in_a_tensor_is_a_number():
    _, (site,), powers = found(lambda m, ids: m.head(m.table(ids) * torch.tensor(m.s)))
    assert site.factor == 3 and powers == {"table.weight": 1}


def test_numbers_are_found_with_their_places():
    values = {
        "scale": 2, "on": True, "text_config": {"scale": 0.5, "other": 1.0}, "many": [1.0, 3.0],
        "none": None,
    }  # fmt: skip
    keys = {"scale": 1.0, "many": 1.0, "on": 1.0, "none": 1.0}
    assert dict(numbers_of(values, keys)) == {
        ("scale",): 2.0, ("text_config", "scale"): 0.5, ("many", 0): 1.0, ("many", 1): 3.0,
    }  # fmt: skip
