"""BatchNorm statistics, measured in the order of execution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from normsurgery.calibrate.arrays.samples import Samples, held_out
from normsurgery.calibrate.batch_statistics import Gatherer, reestimate


class Net(nn.Module):
    """Two norms in a row, the second called twice where `shared`, and one that never runs."""

    def __init__(self, *, shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.conv, self.idle = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.shared = shared

    def forward(self, x: Any) -> Any:
        x = self.second(self.conv(self.first(x)).relu())
        return self.second(self.conv(x)) if self.shared else x


def samples(count: int = 10) -> Samples:
    made = torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 2 + 3
    return Samples(tuple({"x": row[None]} for row in made))


AXES = {"first": 1, "second": 1, "idle": 1}
ALL, THREE_AT_A_TIME = 2**30, 3 * 3 * 25 * 4


@pytest.mark.parametrize("memory", [ALL, THREE_AT_A_TIME, 1])
def test_each_norm_gets_the_statistics_of_the_whole_set(memory):
    net = Net().eval()
    steps: list[int] = []
    found = reestimate(
        net, AXES, samples(), memory_bytes=memory, advance=lambda n, note="": steps.append(n)
    )
    whole = next(samples().batches(10)).inputs["x"]
    assert sum(steps) == 2
    assert set(found) == {"first", "second"}
    assert found["first"].count == 250
    assert net.first.running_mean is not None
    assert torch.allclose(net.first.running_mean, whole.mean((0, 2, 3)), atol=1e-5)
    with torch.no_grad():
        out = net(whole)  # with the new statistics every norm's output is standardized
        middle = net.first(whole)
    for values in (middle, out):
        assert values.mean((0, 2, 3)).abs().max() < 1e-5
        assert (values.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-3  # of which ε is a part
    assert net.idle.running_var is not None
    assert net.idle.running_var.eq(1).all()


def test_a_norm_that_is_called_twice_gets_both_calls_together():
    net = Net(shared=True).eval()
    seen: list[torch.Tensor] = []
    handle = net.second.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    whole = next(samples().batches(10)).inputs["x"]
    first = reestimate(net, {"first": 1}, samples(), memory_bytes=ALL)
    assert set(first) == {"first"}
    seen.clear()
    with torch.no_grad():
        net(whole)
    handle.remove()
    found = reestimate(net, {"second": 1}, samples(), memory_bytes=ALL)
    both = torch.cat(seen).double()
    assert torch.allclose(found["second"].mean, both.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(found["second"].variance, both.var((0, 2, 3), correction=0), rtol=1e-5)


def test_what_is_stored_is_what_later_norms_see():
    net = Net().eval()

    def halve(name: str, found: Any) -> None:
        net.get_submodule(name).running_mean.copy_(found.mean / 2)  # type: ignore[operator]

    halved = reestimate(net, AXES, samples(), memory_bytes=ALL, store=halve)
    straight = reestimate(Net().eval(), AXES, samples(), memory_bytes=ALL)
    assert torch.equal(halved["first"].mean, straight["first"].mean)
    assert not torch.allclose(halved["second"].mean, straight["second"].mean, atol=0.05)


def test_a_merge_of_batches_is_exact_far_from_zero():
    values = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0)).double() + 1e6
    gatherer = Gatherer(1)
    for part in values.split([1, 4, 2]):
        gatherer.update(part)
    found = gatherer.result()
    assert torch.allclose(found.mean, values.mean((0, 2)), rtol=1e-15)
    assert torch.allclose(found.variance, values.var((0, 2), correction=0), rtol=1e-8)
    with pytest.raises(ValueError, match="no values"):
        Gatherer(1).result()


def test_the_held_out_part_is_disjoint_and_drawn():
    numbered = Samples(tuple({"x": torch.tensor([i])} for i in range(20)), tuple(range(20)))
    rest, held = held_out(numbered, 0.25, seed=0)
    assert rest.labels is not None
    assert held.labels is not None
    assert sorted(rest.labels + held.labels) == list(range(20))
    assert len(held) == 5
    assert held.labels != held_out(numbered, 0.25, seed=1)[1].labels
    assert [int(row["x"]) for row in held.rows] == list(held.labels)
    with pytest.raises(ValueError, match="one sample"):
        held_out(numbered.taken([0]), 0.25, seed=0)
