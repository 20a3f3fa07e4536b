"""The reference of the tests: a model in memory whose norms have frozen divisors, naively.

Nothing is folded and nothing is fused here. A site of one path has its formula at the norm; where
a site has several, the norm passes its input on and each reader normalizes what it reads, output
channel by output channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.norm_paths import NormPath
from normsurgery.anatomy.norms import Norm


@contextmanager
def frozen_norms(
    model: nn.Module, paths: Sequence[NormPath], sigma: Mapping[str, float]
) -> Iterator[None]:
    """While open, the norms of these paths divide by their σ̂. The model's modules stay its own."""
    grouped: dict[str, list[NormPath]] = {}
    for path in paths:
        grouped.setdefault(path.site.name, []).append(path)
    changed: list[nn.Module] = []
    try:
        for members in grouped.values():
            norm, module = members[0].site.norm, model.get_submodule(members[0].site.name)
            changed.append(module)
            if len(members) == 1:
                module.forward = _at_norm(module, norm, sigma[members[0].name])
                continue
            module.forward = _passed
            for name in dict.fromkeys(p.reader.module for m in members for p in m.parts):
                reader = model.get_submodule(name)
                changed.append(reader)
                reader.forward = _at_reader(reader, name, module, norm, members, sigma)
        yield
    finally:
        for module in changed:
            module.__dict__.pop("forward", None)


def _centred(x: Tensor, norm: Norm) -> Tensor:
    return x - x.mean(-1, keepdim=True) if norm.kind == "LayerNorm" else x


def _formula(x: Tensor, module: nn.Module, norm: Norm, sigma: float) -> Tensor:
    """γ (x − mean x)/σ̂ + β, without the mean for an RMSNorm."""
    y = _centred(x, norm) / sigma
    if norm.weight:
        y = y * (getattr(module, norm.weight) + norm.offset)
    return y + getattr(module, norm.bias) if norm.bias else y


def _passed(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x


def _at_norm(module: nn.Module, norm: Norm, sigma: float) -> Any:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _formula(x, module, norm, sigma)

    return forward


def _at_reader(
    reader: nn.Module, name: str, module: nn.Module, norm: Norm,
    paths: Sequence[NormPath], sigma: Mapping[str, float],
) -> Any:  # fmt: skip
    own = type(reader).forward
    shares = [
        (part.channels, sigma[path.name])
        for path in paths
        for part in path.parts
        if part.reader.module == name
    ]

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        result: Any = None
        for channels, value in shares:
            found = own(reader, _formula(x, module, norm, value), *args, **kwargs)
            if channels is None:
                return found
            result = torch.full_like(found, torch.nan) if result is None else result
            index = torch.tensor(channels)
            result[..., index] = found[..., index]
        return result

    return forward
