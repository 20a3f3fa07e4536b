"""What a BatchNorm folds into, rule by rule, on nets of a few modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from normsurgery.anatomy.batchnorm.sites import LinearMap
from normsurgery.anatomy.twin import randomize
from tests.anatomy.batchnorm.nets import Frozen, Net, difference_when_folded, only, read

IMAGE = (2, 4, 7, 7)


def straight(net, x):
    return torch.tanh(net.norm(net.map(x)))


def flat(net, x):
    return torch.tanh(net.norm(net.map(x).transpose(1, 2)).transpose(1, 2))


PRODUCERS = {
    "conv1d": (straight, nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), (2, 4, 9)),
    "conv2d": (straight, nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), IMAGE),
    "conv3d": (straight, nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), (2, 4, 3, 3, 3)),
    "grouped": (straight, nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), IMAGE),
    "depthwise": (straight, nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), IMAGE),
    "transposed": (straight, nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6), IMAGE),
    "transposed, grouped": (
        straight, nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6), IMAGE,
    ),
    "linear": (straight, nn.Linear(4, 6), nn.BatchNorm1d(6), (5, 4)),
    "linear, channels turned": (flat, nn.Linear(4, 6), nn.BatchNorm1d(6), (2, 5, 4)),
    "Conv1D": (flat, Conv1D(6, 4), nn.BatchNorm1d(6), (2, 5, 4)),
    "frozen": (straight, nn.Conv2d(4, 6, 3), Frozen(6), IMAGE),
    "no affine": (straight, nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("case", PRODUCERS)
def test_a_norm_folds_into_the_map_before_it(case):
    run, stored, norm, shape = PRODUCERS[case]
    made, found = read(Net(run, map=stored, norm=norm), *shape)
    site = only(found)
    assert site.kind == "producer", site.reason
    assert [m.weight for m in site.maps] == ["map.weight"]
    assert difference_when_folded(made, found) < 1e-12
    assert difference_when_folded(made, found, mapping=False) > 1e-2


def test_the_axes_of_a_map_are_those_of_its_memory():
    _, found = read(
        Net(straight, map=nn.ConvTranspose2d(4, 6, 2, groups=2), norm=nn.BatchNorm2d(6)), *IMAGE
    )
    assert only(found).maps == (
        LinearMap("map", "map.weight", "map.bias", 1, 0, groups=2, transposed=True),
    )
    _, found = read(Net(flat, map=Conv1D(6, 4), norm=nn.BatchNorm1d(6)), 2, 5, 4)
    assert only(found).maps == (LinearMap("map", "map.weight", "map.bias", 1, 0),)


def test_random_gains_have_both_signs():
    norms: list[Any] = [nn.BatchNorm2d(64), Frozen(64)]
    for norm in norms:
        randomize(norm, seed=0)
        assert {float(sign) for sign in norm.weight.detach().sign()} == {-1.0, 1.0}


def pool_before(net, x):
    return net.norm(F.max_pool2d(net.map(x), 2))


def written_through_a_view(net, x):
    made = net.map(x)
    made[:, :, 0].mul_(2)
    return net.norm(made)


def two_maps(net, x):
    return net.norm(torch.cat([net.map(x), net.other(x)], 1))


def used_twice(net, x):
    made = net.map(x)
    return net.norm(made), net.map(x + 1)


def behind_the_trace(net, x):
    made = net.map(x)
    with torch._C.DisableTorchFunction():
        net.seen = made * 2
    return net.norm(made)


def conv(inputs=4, outputs=4, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, **options)


STAYS = {
    "second reader": (lambda net, x: (made := net.map(x)) + net.norm(made), "is read by"),
    "handed out": (lambda net, x: (net.norm(made := net.map(x)), made), "output of the model"),
    "nonlinearity": (lambda net, x: net.norm(F.relu(net.map(x))), "relu stands before it"),
    "in-place nonlinearity": (lambda net, x: net.norm(F.relu_(net.map(x))), "relu stands before"),
    "max-pool": (pool_before, "max_pool2d stands before it"),
    "padding": (lambda net, x: net.norm(F.pad(net.map(x), (1, 1))), "pad stands before it"),
    "mask": (lambda net, x: net.norm(net.map(x).masked_fill(x[:, :, 2:, 2:] > 0, 0)), "masked"),
    "written to": (written_through_a_view, "changed in place"),
    "several maps": (two_maps, "cat stands before it"),
    "shared": (used_twice, "map.weight is used elsewhere too"),
    "weight read": (lambda net, x: (net.norm(net.map(x)), net.map.weight.sum()), "something else"),
    "bias read": (lambda net, x: (net.norm(net.map(x)), net.map.bias * 2), "something else"),
    "computed weight": (
        lambda net, x: net.norm(F.conv2d(x, net.map.weight * 2)), "conv2d stands before it",
    ),
    "unseen reader": (behind_the_trace, "kernels that the trace does not see"),
    "nothing before": (lambda net, x: net.norm(x), "no linear map stands before it"),
    "norm before": (lambda net, x: net.norm(net.first(net.map(x))), "the norm first stands"),
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS)
def test_a_norm_stays_with_the_reason(case):
    run, words = STAYS[case]
    norm = nn.BatchNorm2d(8 if case == "several maps" else 4)
    _, found = read(Net(run, map=conv(), other=conv(), first=nn.BatchNorm2d(4), norm=norm), *IMAGE)
    site = next(site for site in found.sites if site.name == "norm")
    assert site.kind == "stays"
    assert words in site.reason, site.reason
    assert site.maps == ()


def test_another_axis_than_the_maps_channels_stays():
    _, found = read(Net(straight, map=nn.Linear(4, 6), norm=nn.BatchNorm1d(5)), 2, 5, 4)
    assert only(found).kind == "stays"
    assert "another axis" in only(found).reason


def test_a_norm_of_several_calls_folds_only_where_they_agree():
    def again(net, x):
        return net.norm(net.map(x)), net.norm(net.map(x + 1))

    def otherwise(net, x):
        return net.norm(net.map(x)), net.norm(net.other(x))

    parts = {"map": conv(), "other": conv(), "norm": nn.BatchNorm2d(4)}
    assert only(read(Net(again, **parts), *IMAGE)[1]).kind == "producer"
    site = only(read(Net(otherwise, **parts), *IMAGE)[1])
    assert (site.kind, "several maps" in site.reason) == ("stays", True)


def test_a_norm_by_two_names_is_one_site_and_a_shared_tensor_stays():
    norm = nn.BatchNorm2d(4)
    _, found = read(Net(straight, map=conv(), norm=norm, alias=norm), *IMAGE)
    assert only(found).kind == "producer"
    other = nn.BatchNorm2d(4)
    other.weight = norm.weight
    _, found = read(
        Net(lambda net, x: net.two(net.b(net.one(net.a(x)))), a=conv(), one=norm, b=conv(),
            two=other), *IMAGE,
    )  # fmt: skip
    assert [site.kind for site in found.sites] == ["stays", "stays"]
    assert "shares a tensor with two" in found.sites[0].reason


def test_what_is_not_executed_is_dead_unless_its_tensors_are_read():
    def by_hand(net, x):
        return F.batch_norm(net.map(x), net.norm.running_mean, net.norm.running_var)

    _, found = read(Net(lambda net, x: net.map(x), map=conv(), norm=nn.BatchNorm2d(4)), *IMAGE)
    assert (only(found).kind, only(found).reason) == ("dead", "it is not executed")
    assert only(read(Net(by_hand, map=conv(), norm=nn.BatchNorm2d(4)), *IMAGE)[1]).kind == "stays"


def test_epsilon_is_what_the_forward_adds():
    lying: Any = Frozen(4, eps=1e-3, eps_said=0.5, eps_=1)
    lying.eps = 0.5
    _, found = read(Net(straight, map=conv(), norm=lying), *IMAGE)
    assert (only(found).kind, only(found).norm.eps) == ("producer", 1e-3)


def test_a_forward_that_does_something_else_stays():
    class Halved(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) / 2

    _, found = read(Net(straight, map=conv(), norm=Halved(4)), *IMAGE)
    assert (only(found).kind, "no affine map" in only(found).reason) == ("stays", True)


def test_an_activation_of_its_own_is_told():
    class Activated(nn.BatchNorm2d):
        def __init__(self, width):
            super().__init__(width)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(super().forward(x))

    _, found = read(Net(straight, map=conv(), norm=Activated(4)), *IMAGE)
    assert (only(found).kind, only(found).norm.activates) == ("producer", True)
    _, found = read(Net(lambda n, x: n.map(n.norm(x)), norm=Activated(4), map=conv()), *IMAGE)
    assert (only(found).kind, "activation itself" in only(found).reason) == ("stays", True)


def test_a_hidden_state_that_is_shown_on_request_is_a_reader():
    class Showing(nn.Module):
        def __init__(self):
            super().__init__()
            self.map, self.norm = conv(), nn.BatchNorm2d(4)

        def forward(self, x, output_hidden_states=False):
            made = self.map(x)
            shown = {"hidden_states": (made,)} if output_hidden_states else {}
            return {"last": self.norm(made), **shown}

    _, found = read(Showing(), *IMAGE)
    assert (only(found).kind, "output of the model" in only(found).reason) == ("stays", True)


def test_norms_that_no_output_shows_are_told_apart():
    def run(net, x):
        net.unused = net.aside(net.other(x))
        return net.norm(net.map(x))

    parts = {"map": conv(), "other": conv(), "norm": nn.BatchNorm2d(4)}
    _, found = read(Net(run, aside=nn.BatchNorm2d(4), **parts), *IMAGE)
    assert {site.name: site.seen for site in found.sites} == {"aside": False, "norm": True}
