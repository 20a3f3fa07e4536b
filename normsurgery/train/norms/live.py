"""The forwards that stand in for a norm's and its readers' in a live model.

A site of one path is replaced at the norm. At a site of several the norm hands its input on, and
each reader normalizes it at its own door: a fused reader computes the channels of each path from
another normalized input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from normsurgery.anatomy.model import NormSite, Reader
from normsurgery.train.norms.functions import frozen, real, spread
from normsurgery.train.norms.fused import Layout
from normsurgery.train.norms.statistics import PathState, Sums
from normsurgery.train.norms.tokens import END, FIRST, Tokens

Key = tuple[Any, ...]
_REAL: Key = ()


@dataclass
class Shared:
    """What all sites of a model share: the tokens of the forward, and how specials are merged.

    stream: the final norm's input in the last forward. key, normed: one site's input and what was
    made of it, so that its readers need not do it again; of the last site only, since a
    checkpointed block must not keep what it made.
    """

    tokens: Tokens = field(default_factory=lambda: Tokens(None, False, False))
    merged: dict[str, float] = field(default_factory=lambda: {"first": 0.0, "end": 0.0})
    stream: Tensor | None = None
    source: Tensor | None = None
    owner: object = None
    normed: dict[Key, Tensor] = field(default_factory=dict)

    def forget(self) -> None:
        """Let go of what the last site made."""
        self.source, self.owner, self.normed = None, None, {}


class LivePath:
    """One path's state, and the tensors that its frozen norm needs."""

    def __init__(self, name: str, shared: Shared) -> None:
        self.name = name
        self.state = PathState()
        self._shared = shared
        self._made: dict[torch.device, tuple[Tensor, Tensor | None]] = {}

    def changed(self) -> None:
        """The σ̂ or the merging changed: make the tensors anew."""
        self._made = {}

    @property
    def key(self) -> Key:
        """Paths of one site with the same key compute the same."""
        state = self.state
        if not state.share:
            return _REAL
        return (state.share, state.ordinary, *self.specials())

    def specials(self) -> tuple[float, float]:
        """The σ̂ of first tokens and of ends of text."""
        state, merged = self.state, self._shared.merged
        return state.special(state.first, merged["first"]), state.special(state.end, merged["end"])

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """σ̂, and σ̂ over that of each kind [kinds] (None: one for all)."""
        if device not in self._made:
            ordinary = self.state.ordinary
            assert ordinary is not None
            ratios = [1.0, 1.0, 1.0, 1.0]
            first, end = self.specials()
            ratios[FIRST], ratios[END] = ordinary / first, ordinary / end
            table = torch.tensor(ratios, dtype=torch.float64, device=device)
            same = all(ratio == 1 for ratio in ratios)
            sigma = torch.tensor(ordinary, dtype=torch.float64, device=device)
            self._made[device] = (sigma, None if same else table)
        return self._made[device]


class LiveSite:
    """A norm module whose paths can be frozen. partial: some of its paths are not among them."""

    def __init__(
        self,
        site: NormSite,
        module: nn.Module,
        paths: Sequence[LivePath],
        shared: Shared,
        *,
        partial: bool = False,
    ) -> None:
        self.norm, self.module = site.norm, module
        self.paths, self._shared = tuple(paths), shared
        self.partial = partial
        self.sums = Sums()

    def at_norm(self, x: Tensor) -> Tensor:
        """The norm's forward where the site is one path."""
        y, sigma = self._normed(x, self.paths[0])
        self._count(x, sigma)
        return y

    def at_final(self, x: Tensor) -> Tensor:
        """The same for the last norm, whose input the auxiliary loss asks for."""
        if self._shared.tokens.counted:
            self._shared.stream = x
        return self.at_norm(x)

    def passing(self, x: Tensor) -> Tensor:
        """The norm's forward where its readers normalize: x itself, once it is measured."""
        sigma = None
        self._shared.forget()
        if self.partial or any(path.key == _REAL for path in self.paths):
            y, sigma = real(x, self.norm, *self._parameters())
            self._shared.source, self._shared.owner = x, self
            self._shared.normed = {_REAL: y}
        self._count(x, sigma)
        return x

    def normed(self, x: Tensor, path: LivePath) -> Tensor:
        """What a reader on this path reads instead of x."""
        shared = self._shared
        if shared.owner is not self or shared.source is not x:
            shared.source, shared.owner, shared.normed = x, self, {}
        key = path.key
        if key not in shared.normed:
            shared.normed[key] = self._normed(x, path)[0]
        return shared.normed[key]

    def _normed(self, x: Tensor, path: LivePath) -> tuple[Tensor, Tensor | None]:
        share = path.state.share
        weight, bias = self._parameters()
        if not share:
            return real(x, self.norm, weight, bias)
        sigma, ratios = path.tensors(x.device)
        scale = None
        if ratios is not None:
            kinds = self._shared.tokens.kinds(x.shape[:-1], x.device)
            scale = ratios[kinds].view(*x.shape[:-1], 1)
        flat = frozen(x, self.norm, weight, bias, sigma, scale)
        if share == 1:
            return flat, None
        y, measured = real(x, self.norm, weight, bias)
        return torch.lerp(y, flat, share), measured

    def _count(self, x: Tensor, sigma: Tensor | None) -> None:
        if self._shared.tokens.counted:
            with torch.no_grad():
                self.sums.add(spread(x, self.norm) if sigma is None else sigma, self._shared.tokens)

    def _parameters(self) -> tuple[Tensor | None, Tensor | None]:
        weight, bias = self.norm.weight, self.norm.bias
        return (
            getattr(self.module, weight) if weight else None,
            getattr(self.module, bias) if bias else None,
        )


def plain_reader(
    site: LiveSite, path: LivePath, original: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """The forward of a reader that is on one path."""

    def forward(x: Tensor) -> Tensor:
        return original(site.normed(x, path))

    return forward


class FusedReader:
    """The forward of a reader whose output channels lie on several paths.

    parts: (path, its output channels, ascending); together all of them.
    """

    def __init__(
        self,
        site: LiveSite,
        module: nn.Module,
        reader: Reader,
        parts: Sequence[tuple[LivePath, tuple[int, ...]]],
    ) -> None:
        self._site, self._module = site, module
        self._original: Callable[[Tensor], Tensor] = module.forward
        self._paths = [path for path, _ in parts]
        self._layout = Layout([channels for _, channels in parts])
        self._contracts = reader.in_dim
        self._weight = _own(reader.weight, reader.module)
        self._bias = _own(reader.bias, reader.module) if reader.bias else None
        self._sliced = self._is_linear()

    def __call__(self, x: Tensor) -> Tensor:
        site = self._site
        first, *others = self._paths
        if all(path.key == first.key for path in others):
            return self._original(site.normed(x, first))
        normed = (site.normed(x, path) for path in self._paths)
        return self._layout.together([self._some(one, part) for part, one in enumerate(normed)])

    def _some(self, normed: Tensor, part: int) -> Tensor:
        rows = self._layout.rows
        if not self._sliced:
            return rows(self._original(normed), part, -1)
        assert self._weight is not None
        weight = getattr(self._module, self._weight)
        bias = getattr(self._module, self._bias) if self._bias else None
        if self._contracts == 0:
            weight = weight.t()
        return linear(
            normed.to(weight.dtype) if not _autocast(normed) else normed,
            rows(weight, part, 0),
            None if bias is None else rows(bias, part, 0),
        )

    def _is_linear(self) -> bool:
        """Whether the module computes just x Wᵀ + b, so that some rows of W can be had alone."""
        if self._weight is None:
            return False
        weight = getattr(self._module, self._weight).detach()
        if weight.dim() != 2 or weight.is_meta:
            return False
        width = weight.shape[self._contracts]
        x = torch.linspace(-1, 1, 2 * width, dtype=torch.float64).view(1, 2, width)
        x = x.to(weight.device, weight.dtype)
        with torch.no_grad():
            theirs = self._original(x)
            bias = getattr(self._module, self._bias) if self._bias else None
            ours = linear(x, weight.t() if self._contracts == 0 else weight, bias)
        return theirs.shape == ours.shape and torch.allclose(theirs, ours, rtol=1e-2, atol=1e-3)


def _own(name: str | None, module: str) -> str | None:
    """The attribute of the module that holds a parameter, None where it is not the module's own."""
    if name is None:
        return None
    holder, _, attribute = name.rpartition(".")
    return attribute if holder == module else None


def _autocast(like: Tensor) -> bool:
    return torch.is_autocast_enabled(like.device.type)
