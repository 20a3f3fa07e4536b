"""Small nets made by hand, and the folds done naively on them in memory."""

from __future__ import annotations

import copy

import torch
from torch import nn

from normsurgery.anatomy.batchnorm.modules import coefficients
from normsurgery.anatomy.batchnorm.read import read_batch_norms
from normsurgery.anatomy.twin import Twin, randomize


class Net(nn.Module):
    """`run(net, x)` as a module that has `parts`."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


class Frozen(nn.Module):
    """As in the DETR families: four buffers, ε in the code alone."""

    def __init__(self, width, eps=1e-5, **attributes):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(width))
        self.hidden_eps = eps
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        gain = self.weight * (self.running_var + self.hidden_eps).rsqrt()
        shift = self.bias - self.running_mean * gain
        return x * gain.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class Shifted(nn.Module):
    def __init__(self, shift, axis):
        super().__init__()
        self.shift, self.axis = shift, axis

    def forward(self, x):
        view = [1] * x.dim()
        view[self.axis] = -1
        return x + self.shift.view(view)


def twin(model, *shape, seed=0):
    model = model.double().eval()
    randomize(model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Twin(model, {"x": x}, {})


def read(model, *shape):
    made = twin(model, *shape)
    return made, read_batch_norms(made)


def only(found):
    (site,) = found.sites
    return site


def difference_when_folded(made, found, *, mapping=True):
    """Largest change of the output when every fold is done; mapping: the maps take their share."""
    model = copy.deepcopy(made.model)
    with torch.no_grad():
        before = made.model(**made.inputs)
        for site in found.folded:
            norm = model.get_submodule(site.name)
            gain, shift = coefficients(norm, site.norm.eps)
            if site.kind == "consumer":
                shift = shift / gain
            for stored in site.maps if mapping else ():
                _scale(model, stored, site, gain)
            parent, _, name = site.name.rpartition(".")
            setattr(model.get_submodule(parent), name, Shifted(shift, site.norm.axis))
        return float((model(**made.inputs) - before).abs().max())


def _scale(model, stored, site, gain):
    weight = model.get_parameter(stored.weight)
    if site.kind == "branch":
        per_group = weight.shape[1]
        for channel in range(weight.shape[0]):
            index = (channel, channel % per_group, *site.centre)
            weight[index] += site.sign * (gain[channel] - 1)
        return
    outputs = site.kind == "producer"
    if stored.groups == 1 or (stored.out_dim == 0) == outputs:
        view = [1] * weight.dim()
        axis = stored.out_dim if outputs else stored.in_dim
        view[axis] = -1
        weight *= gain.view(view)
    else:  # the channel is (group, second axis)
        rows = gain.view(stored.groups, -1).repeat_interleave(weight.shape[0] // stored.groups, 0)
        weight *= rows.view(*weight.shape[:2], *[1] * (weight.dim() - 2))
    if outputs and stored.bias:
        model.get_parameter(stored.bias).mul_(gain)
