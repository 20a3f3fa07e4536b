"""Which modules are norms, found by what they compute and not by what they are called.

A module is a LayerNorm if, on random float64 rows, it ignores a constant added to the row and
divides by √(variance + ε); an RMSNorm if it divides by √(mean square + ε) alone. γ, β and ε are
solved for from its outputs and then checked against its parameters, so that a class which stores
γ − 1 (Nemotron), none at all (OLMo) or hard-codes ε is read as it really is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.float64 import Float64

_EXACT = 1e-9
_AXES = (-1, 1)  # the last axis; the channel axis of an image


@dataclass(frozen=True)
class Norm:
    """A norm module: y = (weight + offset) ⊙ x̂ + bias along `axis`, with ε = eps.

    kind: "LayerNorm", "RMSNorm" or "BatchNorm". weight, bias: attribute names of its parameters,
    None where it has none. offset: 1.0 where the class stores γ − 1. width: size along axis.
    """

    name: str
    kind: str
    class_name: str
    width: int
    eps: float
    weight: str | None
    bias: str | None
    offset: float = 0.0
    axis: int = -1

    @property
    def weight_name(self) -> str | None:
        return f"{self.name}.{self.weight}" if self.weight else None

    @property
    def bias_name(self) -> str | None:
        return f"{self.name}.{self.bias}" if self.bias else None


def find_norms(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Norm]:
    """Every norm module of `model` (float64, eval) among those executed, by module name.

    shapes: module name → shape of an input that it took (see `noted_shapes`).
    """
    found: dict[str, Norm] = {}
    for name, shape in shapes.items():
        norm = read_norm(name, model.get_submodule(name), shape)
        if norm is not None:
            found[name] = norm
    return found


@contextmanager
def noted_shapes(model: nn.Module) -> Iterator[dict[str, tuple[int, ...]]]:
    """While open, note the input shapes of modules that might be norms."""
    shapes: dict[str, tuple[int, ...]] = {}
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if _may_be_norm(module):
                hook = module.register_forward_hook(_note_shape(shapes, name))
                hooks.callback(hook.remove)
        yield shapes


def read_norm(name: str, module: nn.Module, shape: tuple[int, ...]) -> Norm | None:
    """What `module` normalizes, or None. shape: of an input that it takes."""
    if hasattr(module, "running_mean") and hasattr(module, "running_var"):
        return _batch_norm(name, module, shape)
    if len(shape) < 2:
        return None
    for axis in _AXES:
        if axis == 1 and len(shape) < 4:
            continue
        norm = _row_norm(name, module, shape, axis)
        if norm is not None:
            return norm
    return None


def _may_be_norm(module: nn.Module) -> bool:
    parameters = list(module.parameters(recurse=False))
    return (
        not any(True for _ in module.children())
        and len(parameters) <= 2
        and all(p.dim() <= 2 for p in parameters)  # a q/k norm may have a row a head
        and not isinstance(module, (nn.Dropout, nn.Identity))
    )


def _note_shape(shapes: dict[str, tuple[int, ...]], name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        if (
            len(args) >= 1
            and isinstance(args[0], Tensor)
            and isinstance(result, Tensor)
            and args[0].is_floating_point()
            and args[0].shape == result.shape
        ):
            shapes.setdefault(name, tuple(result.shape))

    return hook


def _row_norm(name: str, module: nn.Module, shape: tuple[int, ...], axis: int) -> Norm | None:
    width = shape[axis]
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(width, generator=generator, dtype=torch.float64)
    row = row * 3 + 0.5

    def run(values: Tensor) -> Tensor:
        """The module's output on an input whose every row along `axis` is `values`."""
        view = [1] * len(shape)
        view[axis] = width
        full = values.view(view).expand(shape).contiguous()
        with torch.no_grad(), Float64():
            result: Tensor = module(full)
        return result.movedim(axis, -1).reshape(-1, width)[0]

    try:
        plus, minus, far = run(row), run(-row), run(row * 1e4)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None
    bias, odd = (plus + minus) / 2, (plus - minus) / 2
    # A norm forgets the scale (up to ε); everything linear, and every activation, does not.
    if (
        width < 2
        or not torch.allclose(far - bias, odd, rtol=1e-2, atol=1e-9)
        or not odd.abs().sum()
    ):
        return None
    shifted = run(row * 1e4 + 7e4) - bias
    is_layer_norm = torch.allclose(shifted, far - bias, rtol=1e-6, atol=1e-9)
    kind = "LayerNorm" if is_layer_norm else "RMSNorm"
    centred = row - row.mean() if is_layer_norm else row
    gamma = (far - bias) / (centred * 1e4) * (centred * 1e4).square().mean().sqrt()
    eps = _solve_eps(run, centred, row, bias, gamma)
    return _matched(name, module, kind, axis, eps=eps, gamma=gamma, beta=bias, run=run, row=row)


def _solve_eps(run: Any, centred: Tensor, row: Tensor, bias: Tensor, gamma: Tensor) -> float:
    """ε from the damping of a tiny row: |y|² shrinks by v / (v + ε)."""
    scale = 1e-3
    small = (run(row * scale) - run(-row * scale)) / 2
    power = (centred * scale).square().mean()
    ideal = gamma * centred * scale / power.sqrt()
    damping = (small @ ideal) / (ideal @ ideal)
    return float(power * (1 / damping.square() - 1))


def _matched(
    name: str,
    module: nn.Module,
    kind: str,
    axis: int,
    *,
    eps: float,
    gamma: Tensor,
    beta: Tensor,
    run: Any,
    row: Tensor,
) -> Norm | None:
    """Name the parameters that hold γ and β, settle ε, and check the whole formula."""
    parameters = {
        key: p.double().reshape(-1, p.shape[-1])[0]  # of a q/k norm, the first head's row
        for key, p in module.named_parameters(recurse=False)
    }
    exact_eps = min(_eps_candidates(module, eps), key=lambda value: abs(value - eps))
    gain = _owner(parameters, gamma)
    weight, offset = gain if gain else (None, 0.0)
    bias = next(
        (
            k
            for k, p in parameters.items()
            if k != weight and p.shape == beta.shape and _close(p, beta)
        ),
        None,
    )
    true_gamma = parameters[weight] + offset if weight else torch.ones_like(gamma)
    true_beta = parameters[bias] if bias else torch.zeros_like(beta)
    if {weight, bias} - {None} != set(parameters):
        return None
    for scale in (1e-3, 1.0):
        values = row * scale - (row * scale).mean() if kind == "LayerNorm" else row * scale
        expected = true_gamma * values / (values.square().mean() + exact_eps).sqrt() + true_beta
        if not torch.allclose(run(row * scale), expected, rtol=_EXACT, atol=_EXACT):
            return None
    return Norm(name, kind, type(module).__name__, len(row), exact_eps, weight, bias, offset, axis)


def _owner(parameters: Mapping[str, Tensor], gamma: Tensor) -> tuple[str, float] | None:
    for offset in (0.0, 1.0):
        for key, parameter in parameters.items():
            if parameter.shape == gamma.shape and _close(parameter + offset, gamma):
                return key, offset
    return None


def _close(stored: Tensor, solved: Tensor) -> bool:
    return torch.allclose(stored, solved, rtol=1e-5, atol=1e-7)


def _eps_candidates(module: nn.Module, solved: float) -> Iterator[float]:
    """The module's own small float attributes, and the round number nearest to what was solved."""
    for value in vars(module).values():
        if isinstance(value, float) and 0 <= value < 0.1:
            yield value
    yield float(f"{max(solved, 0.0):.2g}")


def _batch_norm(name: str, module: nn.Module, shape: tuple[int, ...]) -> Norm:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "eps", 1e-5)  # FrozenBatchNorm of the DETR family hard-codes 1e-5
    return Norm(
        name, "BatchNorm", type(module).__name__, shape[1], float(eps),
        "weight" if weight is not None else None,
        "bias" if getattr(module, "bias", None) is not None else None, axis=1,
    )  # fmt: skip
