"""Norms that fold into what reads them or stands beside them, and convolutions that are one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.anatomy.batchnorm.nets import Net, difference_when_folded, only, read

IMAGE = (2, 4, 6, 6)


def before(net, x):
    return net.map(net.norm(torch.tanh(x)))


def two_readers(net, x):
    made = net.norm(torch.tanh(x))
    return net.map(made) + net.other(made)


CONSUMERS: dict[str, Any] = {
    "convolution": (before, {"map": nn.Conv2d(4, 6, 3)}, IMAGE),
    "grouped": (before, {"map": nn.Conv2d(4, 6, 3, groups=2)}, IMAGE),
    "depthwise": (before, {"map": nn.Conv2d(4, 4, 3, groups=4)}, IMAGE),
    "linear": (before, {"map": nn.Linear(4, 6)}, (5, 4)),
    "every reader": (two_readers, {"map": nn.Conv2d(4, 6, 1), "other": nn.Conv2d(4, 6, 1)}, IMAGE),
    "after pooling": (
        lambda net, x: net.map(F.adaptive_avg_pool2d(net.norm(torch.tanh(x)), 1).flatten(1)),
        {"map": nn.Linear(4, 6)}, IMAGE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONSUMERS)
def test_a_norm_folds_into_all_that_reads_it(case):
    run, maps, shape = CONSUMERS[case]
    norm = nn.BatchNorm1d(4) if len(shape) == 2 else nn.BatchNorm2d(4)
    made, found = read(Net(run, norm=norm, **maps), *shape)
    site = only(found)
    assert site.kind == "consumer", site.reason
    assert sorted(m.module for m in site.maps) == sorted(maps)
    assert difference_when_folded(made, found) < 1e-12
    assert difference_when_folded(made, found, mapping=False) > 1e-2


NO_CONSUMERS: dict[str, Any] = {
    "padded": (before, nn.Conv2d(4, 6, 3, padding=1), "zero-padded"),
    "padded by a word": (before, nn.Conv2d(4, 6, 3, padding="same"), "zero-padded"),
    "transposed": (before, nn.ConvTranspose2d(4, 6, 3), "transposed convolution"),
    "nonlinearity": (
        lambda net, x: net.map(F.relu(net.norm(torch.tanh(x)))), nn.Conv2d(4, 6, 1), "relu",
    ),
    "one reader more": (
        lambda net, x: (net.map(made := net.norm(torch.tanh(x))), made * 2), nn.Conv2d(4, 6, 1),
        "mul",
    ),
    "handed out": (
        lambda net, x: (net.map(made := net.norm(torch.tanh(x))), made), nn.Conv2d(4, 6, 1),
        "output of the model",
    ),
    "weight used elsewhere": (
        lambda net, x: net.map(net.norm(torch.tanh(x))) + net.map(x), nn.Conv2d(4, 6, 1),
        "used elsewhere",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_CONSUMERS)
def test_a_norm_does_not_fold_into_what_would_be_wrong(case):
    run, stored, words = NO_CONSUMERS[case]
    site = only(read(Net(run, norm=nn.BatchNorm2d(4), map=stored), *IMAGE)[1])
    assert site.kind == "stays"
    assert words in site.reason, site.reason


def parts(**changes):
    return {
        "large": nn.Conv2d(4, 4, 3, padding=1, bias=False), "after_large": nn.BatchNorm2d(4),
        "small": nn.Conv2d(4, 4, 1, bias=False), "after_small": nn.BatchNorm2d(4),
        "identity": nn.BatchNorm2d(4), **changes,
    }  # fmt: skip


def rep_vgg(net, x):
    x = torch.tanh(x)
    added = net.after_large(net.large(x)) + net.after_small(net.small(x))
    return F.relu(added + net.identity(x))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_an_identity_norm_becomes_the_centre_tap_and_branches_are_one_convolution(groups):
    changes = {
        "large": nn.Conv2d(4, 4, 3, padding=1, groups=groups),
        "small": nn.Conv2d(4, 4, 1, groups=groups),
    }
    made, found = read(Net(rep_vgg, **parts(**changes)), *IMAGE)
    (site,) = found.of("branch")
    assert (site.name, site.maps[0].weight, site.centre) == ("identity", "large.weight", (1, 1))
    (merge,) = found.merges
    assert (merge.into.weight, merge.identities) == ("large.weight", ("identity",))
    assert ([m.weight for m in merge.others], merge.offsets) == (["small.weight"], ((1, 1),))
    assert difference_when_folded(made, found) < 1e-12
    assert difference_when_folded(made, found, mapping=False) > 1e-2


def test_branches_that_are_added_in_place_are_branches():
    def in_place(net, x):
        x = torch.tanh(x)
        added = 0
        added += net.after_small(net.small(x))
        added += net.after_large(net.large(x))
        added += net.identity(x)
        return F.relu(added)

    made, found = read(Net(in_place, **parts()), *IMAGE)
    assert [site.kind for site in found.sites] == ["producer", "producer", "branch"]
    (merge,) = found.merges
    assert (merge.into.weight, merge.identities) == ("large.weight", ("identity",))
    assert difference_when_folded(made, found) < 1e-12


def test_a_sum_in_place_may_be_read_after_it_was_made_but_not_before():
    def read_again(net, x):
        x = torch.tanh(x)
        added = net.identity(x)
        added += net.after_large(net.large(x))
        return F.relu(added) + net.small(added), added

    _, found = read(Net(read_again, **parts()), *IMAGE)
    assert {site.name: site.kind for site in found.sites}["identity"] == "branch"

    def read_before(net, x):
        x = torch.tanh(x)
        own = net.identity(x)
        kept = own.sin()
        own += net.after_large(net.large(x))
        return own + kept

    _, found = read(Net(read_before, **parts()), *IMAGE)
    assert {site.name: site.kind for site in found.sites}["identity"] == "stays"


def test_a_norm_that_is_subtracted_has_its_sign():
    def mixed(net, x):
        x = torch.tanh(x)
        return net.after_large(net.large(x)) - net.identity(x)

    _, found = read(Net(mixed, **parts()), *IMAGE)
    (site,) = found.of("branch")
    assert (site.sign, found.merges) == (-1, ())


def of_another_tensor(net, x):
    return net.after_large(net.large(torch.tanh(x))) + net.identity(torch.sin(x))


def not_alone(net, x):
    x = torch.tanh(x)
    own = net.identity(x)
    return net.after_large(net.large(x)) + own, own


def after_a_relu(net, x):
    x = torch.tanh(x)
    return F.relu(net.after_large(net.large(x))) + net.identity(x)


def plain(net, x):
    x = torch.tanh(x)
    return net.after_large(net.large(x)) + net.identity(x)


NO_BRANCH: dict[str, Any] = {
    "of another tensor": (of_another_tensor, {}),
    "read elsewhere": (not_alone, {}),
    "a relu between": (after_a_relu, {}),
    "a relu in the branch": (plain, {"after_large": nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())}),
    "two steps": (plain, {"large": nn.Conv2d(4, 4, 1, stride=2), "after_large": nn.Upsample(6)}),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_BRANCH)
def test_a_norm_beside_something_else_stays(case):
    run, changes = NO_BRANCH[case]
    _, found = read(Net(run, **parts(**changes)), *IMAGE)
    assert [site.kind for site in found.sites if site.name == "identity"] == ["stays"]
    assert found.merges == ()
