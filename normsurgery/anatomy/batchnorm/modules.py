"""Which modules are BatchNorms, and what their own forward really computes.

Whatever holds running_mean and running_var is a candidate: torch's BatchNorms, SyncBatchNorm, the
frozen ones of the DETR families, timm's with an activation. ε is not believed but tried: the affine
map made of the module's tensors must be what its forward gives on random float64 rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from normsurgery.anatomy.batchnorm.sites import BatchNorm
from normsurgery.anatomy.float64 import Float64

_EXACT = 1e-10
_EPS_NAMES = ("eps", "variance_epsilon", "epsilon")
_HARD_CODED = (1e-5, 1e-3, 1e-6)  # frozen norms have no attribute that says it


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Modules with running statistics, by name; a module that is reached by two names once."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "running_mean", None), Tensor)
        and isinstance(getattr(module, "running_var", None), Tensor)
    }


def described(name: str, module: nn.Module) -> BatchNorm:
    """The norm as its tensors describe it, its forward not asked."""

    def named(attribute: str) -> str | None:
        held = isinstance(getattr(module, attribute, None), Tensor)
        return f"{name}.{attribute}" if held else None

    mean = module.running_mean
    assert isinstance(mean, Tensor)
    return BatchNorm(
        name, type(module).__name__, mean.numel(), next(_eps_values(module)), named("weight"),
        named("bias"), f"{name}.running_mean", f"{name}.running_var",
    )  # fmt: skip


def probed(name: str, module: nn.Module, shape: tuple[int, ...]) -> BatchNorm | None:
    """The norm as its forward computes it on an input of `shape`; None where it is no affine map
    of its tensors along one axis, with or without one of its own activations after it.
    """
    norm = described(name, module)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad(), Float64():
        try:
            result = module(values.clone())
        except Exception:  # whatever a forward of another signature raises
            return None
        if not isinstance(result, Tensor) or result.shape != values.shape:
            return None
        for axis in (1, len(shape) - 1):
            if axis >= len(shape) or shape[axis] != norm.width:
                continue
            for eps in _eps_values(module):
                activates = _agreement(module, result, affine(module, values, axis, eps))
                if activates is not None:
                    return BatchNorm(**{
                        **vars(norm), "eps": eps, "axis": axis, "activates": activates,
                    })  # fmt: skip
    return None


def affine(module: nn.Module, values: Tensor, axis: int, eps: float) -> Tensor:
    """`a ⊙ values + c` along `axis`, from the module's tensors."""
    gain, shift = coefficients(module, eps)
    view = [1] * values.dim()
    view[axis] = -1
    return values * gain.view(view) + shift.view(view)


def coefficients(module: nn.Module, eps: float) -> tuple[Tensor, Tensor]:
    """`a` and `c` [width] of `a ⊙ x + c`, in float64."""
    mean, variance = (
        getattr(module, key).detach().double().flatten() for key in ("running_mean", "running_var")
    )
    gain = (variance + eps).rsqrt()
    weight, bias = (getattr(module, key, None) for key in ("weight", "bias"))
    if isinstance(weight, Tensor):
        gain = gain * weight.detach().double().flatten()
    shift = -gain * mean
    if isinstance(bias, Tensor):
        shift = shift + bias.detach().double().flatten()
    return gain, shift


def _agreement(module: nn.Module, result: Tensor, expected: Tensor) -> bool | None:
    """False: the affine map is all of it; True: an own activation follows; None: neither."""
    if _same(result, expected):
        return False
    for child in module.children():
        try:
            if _same(result, child(expected.clone())):
                return True
        except Exception:  # a child that is no activation
            continue
    return None


def _same(left: Tensor, right: object) -> bool:
    return (
        isinstance(right, Tensor)
        and left.shape == right.shape
        and torch.allclose(left, right, rtol=_EXACT, atol=_EXACT)
    )


def _eps_values(module: nn.Module) -> Iterator[float]:
    for key in _EPS_NAMES:
        value = getattr(module, key, None)
        if isinstance(value, float | int):
            yield float(value)
    yield from _HARD_CODED
