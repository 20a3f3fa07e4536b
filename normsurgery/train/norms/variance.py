"""The largest variance that norms see: what a constant in their place must be large against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.norm_paths import NormPath
from normsurgery.anatomy.norms import Norm


def largest_variance(
    model: nn.Module, paths: Sequence[NormPath], batches: Iterable[Mapping[str, Tensor]]
) -> float:
    """Over all tokens, first ones and pads included: of an RMSNorm the mean square, in float32.

    model: with the norms frozen, as it will run: a stream that nothing divides any more may grow.
    batches: keyword arguments of its forward. Distributed processes each
    see their own.
    """
    seen: list[Tensor] = []
    hooks = []
    for norm in {path.site.name: path.site.norm for path in paths}.values():
        module = model.get_submodule(norm.name)
        hooks.append(module.register_forward_pre_hook(_note(seen, norm), with_kwargs=True))
    device = next(model.parameters()).device
    largest = 0.0
    try:
        with torch.no_grad():
            for batch in batches:
                model(**{key: value.to(device) for key, value in batch.items()})
                largest = max([largest, *(float(value) for value in seen)])
                seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _note(seen: list[Tensor], norm: Norm) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        if norm.kind == "LayerNorm":
            wide = wide - wide.mean(norm.axis, keepdim=True)
        seen.append(wide.square().mean(norm.axis).max())

    return hook
