"""What a norm computes, and what it computes when its σ is one frozen number.

Source: "Transformers Don't Need LayerNorm at Inference Time", arXiv 2507.02559, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from normsurgery.anatomy.norms import Norm

# Beside ε = h² a variance does not count, so a fused kernel divides by h: powers of two, which
# change no digit. The relative error is var / 2h²: 2^-61 and 2^-121 of the variance.
_HUGE = {torch.float32: 2.0**30, torch.float64: 2.0**60}


def real(
    x: Tensor, norm: Norm, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """γ (x − mean)/σ + β, and σ of each row.

    x: [.., width], normalized along the last axis. weight, bias: what the module stores (γ, or
    γ − 1 where `norm.offset` is 1), [width] or a row a head. Returns y like x, and σ [..] without
    a gradient: √(variance + ε), of an RMSNorm √(mean square + ε).
    """
    wide = _wide(x)
    gain, shift = _gain(norm, weight, wide), _like(bias, wide)
    if norm.kind == "RMSNorm":
        inverse = torch.rsqrt(_mean_square(wide) + norm.eps)
        y = wide * inverse if gain is None else wide * inverse * gain
        return _narrow(y if shift is None else y + shift, x, weight), 1 / inverse.detach()[..., 0]
    by_head = gain is not None and gain.dim() > 1
    y, _, inverse = torch.native_layer_norm(
        wide, wide.shape[-1:], None if by_head else gain, None if by_head else shift, norm.eps
    )
    if by_head and gain is not None:
        y = y * gain if shift is None else y * gain + shift
    return _narrow(y, x, weight), 1 / inverse.detach()[..., 0]


def frozen(
    x: Tensor,
    norm: Norm,
    weight: Tensor | None,
    bias: Tensor | None,
    sigma: Tensor,
    scale: Tensor | None = None,
) -> Tensor:
    """γ (x − mean)/σ̂ + β with one number σ̂ (RMSNorm: no mean).

    sigma: σ̂, a scalar tensor. scale: [.., 1], σ̂ / (the σ̂ of that row), where some rows have one
    of their own; None where none has. The other arguments as in `real`.
    """
    wide = _wide(x)
    gain, shift = _gain(norm, weight, wide), _like(bias, wide)
    scaled = wide if scale is None else wide * scale.to(wide.dtype)
    sigma = sigma.to(wide.dtype)
    if norm.kind == "RMSNorm":
        y = scaled * ((1.0 if gain is None else gain) / sigma)
        return _narrow(y if shift is None else y + shift, x, weight)
    huge = _HUGE[wide.dtype]
    if gain is not None and gain.dim() > 1:
        y = layer_norm(scaled, wide.shape[-1:], None, None, huge**2) * (gain * (huge / sigma))
        return _narrow(y if shift is None else y + shift, x, weight)
    one = torch.ones_like(wide[(0,) * (wide.dim() - 1)]) if gain is None else gain
    y = layer_norm(scaled, wide.shape[-1:], one * (huge / sigma), shift, huge**2)
    return _narrow(y, x, weight)


def spread(x: Tensor, norm: Norm) -> Tensor:
    """σ of each row [..], as in `real`, with a gradient."""
    wide = _wide(x)
    if norm.kind == "LayerNorm":
        wide = wide - wide.mean(-1, keepdim=True)
    return torch.sqrt(_mean_square(wide) + norm.eps)[..., 0]


def _mean_square(x: Tensor) -> Tensor:
    """[.., 1]; one pass over x, where a variance takes torch twenty times as long on a CPU."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.square() / x.shape[-1]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _narrow(y: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
    return y.to(x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype))


def _gain(norm: Norm, weight: Tensor | None, like: Tensor) -> Tensor | None:
    gain = _like(weight, like)
    return gain + norm.offset if gain is not None and norm.offset else gain


def _like(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(like.dtype)
