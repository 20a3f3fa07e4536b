"""What float16 makes of a norm that divides by a constant: run on the twin's own module."""

from __future__ import annotations

import copy

import torch

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.norms import Norm

_ROWS = 16


def float16_error(examination: Examination, norm: Norm, *, power: int, sigma: float) -> float:
    """Error of the norm in float16 over the size of its output; NaN where it is not finite.

    Its γ is 2^power, its ε 4^power, and its input has the standard deviation `sigma`.
    """
    module = copy.deepcopy(examination.twin.model.get_submodule(norm.name)).half()
    changed = [key for key, value in vars(module).items() if value == norm.eps]
    for key in changed:
        setattr(module, key, 4.0**power)
    with torch.no_grad():
        for name, value in module.named_parameters(recurse=False):
            value.fill_(2.0**power - norm.offset if name == norm.weight else 0.0)
    generator = torch.Generator().manual_seed(0)
    shape = (_ROWS, *examination.twin.shapes[norm.name][1:])
    rows = (torch.randn(shape, generator=generator) * sigma).half()
    with torch.no_grad():
        found = module(rows).double()
    wide = rows.double()
    expected = wide - wide.mean(-1, keepdim=True) if norm.kind == "LayerNorm" else wide
    if norm.weight is None:
        expected = expected / 2.0**power
    error = (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    return float(error) if bool(found.isfinite().all()) else float("nan")
