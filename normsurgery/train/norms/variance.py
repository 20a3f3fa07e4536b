"""The largest variance that norms see: what a constant divisor is checked against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.norms import Norm
from normsurgery.train.norms.paths import NormPath


def largest_variance(
    model: nn.Module, paths: Sequence[NormPath], batches: Iterable[Mapping[str, Tensor]]
) -> float:
    """Over all tokens, position 0 included, and all sites of the paths; RMSNorm: mean square.

    batches: keyword arguments of the model's forward. Pads count too, which makes it larger at
    most. 0 where there is no batch.
    """
    seen: list[Tensor] = []

    def hook(norm: Norm) -> Any:
        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().float()
            centred = x - x.mean(-1, keepdim=True) if norm.kind == "LayerNorm" else x
            seen.append(centred.square().mean(-1).max())

        return look

    with ExitStack() as hooks, torch.no_grad():
        for norm in {path.site.name: path.site.norm for path in paths}.values():
            handle = model.get_submodule(norm.name).register_forward_pre_hook(hook(norm))
            hooks.callback(handle.remove)
        for batch in batches:
            model(**batch)
    return float(torch.stack(seen).max()) if seen else 0.0
