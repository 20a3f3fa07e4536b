"""A live model whose norms can be frozen path by path while it trains.

Source: "Transformers Don't Need LayerNorm at Inference Time", arXiv 2507.02559.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normsurgery.anatomy.norm_paths import NormPath
from normsurgery.errors import SurgeryError, UsageError
from normsurgery.train.norms.functions import spread
from normsurgery.train.norms.live import FusedReader, LivePath, LiveSite, Shared, plain_reader
from normsurgery.train.norms.statistics import PathState, Sigma, means
from normsurgery.train.norms.tokens import (
    END,
    FIRST,
    ORDINARY,
    argument_names,
    read_tokens,
)


def attach(
    model: nn.Module,
    paths: Sequence[NormPath],
    *,
    decay: float = 0.9,
    end: int | None = None,
) -> Removal:
    """Make the norms of a live model removable; until one is removed nothing it computes changes.

    Modules keep their places, parameters their names. paths: of `read_paths` for this very model.
    decay: of the moving average of σ̂, one step a tick. end: id of the end of a text.

    What each token is comes from the arguments of `model`'s own forward, so parts of it are not to
    be called alone while special tokens have a σ̂ of their own; and where activations are
    checkpointed, a forward's backward has to come before the next forward. Forwards with gradients
    count in the statistics; evaluation (no gradients) does not.
    """
    return Removal(model, paths, decay=decay, end=end)


class Removal:
    """The control of a model's norms. Made by `attach`."""

    def __init__(
        self, model: nn.Module, paths: Sequence[NormPath], *, decay: float, end: int | None
    ) -> None:
        self.model, self.paths = model, tuple(paths)
        self.decay, self.end = decay, end
        self._shared = Shared()
        self._live = {path.name: LivePath(path.name, self._shared) for path in self.paths}
        self._names = argument_names(model)
        self._still = 0
        self._observing = False
        self._patched: list[tuple[nn.Module, Any]] = []  # and a forward of its own, if it had one
        self._sites: dict[str, LiveSite] = {}
        self._attach_sites()
        self._hooks = [
            model.register_forward_pre_hook(self._enter, with_kwargs=True),
            model.register_forward_hook(self._leave, always_call=True),
        ]

    # -- what is removed ------------------------------------------------------------------------

    def remove(self, names: Iterable[str], share: float = 1.0) -> None:
        """Freeze σ̂ of these paths at its average; share < 1 mixes with the real norm.

        A path that is frozen already keeps its σ̂, and takes the new share; 0 gives the real norm
        back. Raises UsageError for an unknown name, SurgeryError where nothing was measured yet.
        """
        for name in names:
            path = self._live.get(name)
            if path is None:
                raise UsageError(f"{name} is no path of this model", f"as in {self.paths[0].name}")
            if path.state.ordinary is None:
                raise SurgeryError(
                    f"σ of {name} was not measured, so it cannot be frozen",
                    "observe() some batches, or train a step, before remove()",
                )
            path.state.share = _share(share)
            path.changed()

    def merge(self, which: Literal["end", "first"], share: float = 1.0) -> None:
        """Move the σ̂ of ends of text, or of first tokens, to the ordinary one (1.0: gone)."""
        if which not in self._shared.merged:
            raise UsageError(f"{which} is no kind of token with a σ̂ of its own", "end or first")
        self._shared.merged[which] = _share(share)
        for path in self._live.values():
            path.changed()

    @property
    def done(self) -> bool:
        """Whether every path is frozen with one σ̂ for all tokens."""
        merged = self._shared.merged
        specials = merged["first"] == 1 and (self.end is None or merged["end"] == 1)
        return specials and all(path.state.share == 1 for path in self._live.values())

    # -- statistics -----------------------------------------------------------------------------

    def tick(self) -> None:
        """After each optimizer step: one step of the averages, over all processes."""
        self._take(self.decay)

    def observe(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Set σ̂ of all paths that are not frozen to its mean over batches; no gradient, eval mode.

        batches: keyword arguments of the model's forward. In several processes each has its own.
        """
        training = [module for module in self.model.modules() if module.training]
        device = next(self.model.parameters()).device
        self._clear()
        self.model.eval()
        self._observing = True
        try:
            with torch.no_grad():
                for batch in batches:
                    self.model(**{key: value.to(device) for key, value in batch.items()})
        finally:
            self._observing = False
            for module in training:
                module.training = True
        self._take(0.0)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Forwards inside count nowhere."""
        self._still += 1
        try:
            yield
        finally:
            self._still -= 1

    def sigmas(self) -> dict[str, Sigma]:
        """σ̂ of each path that was measured, by name."""
        found = {}
        for name, path in self._live.items():
            state = path.state
            if state.ordinary is not None:
                first, end = path.specials()
                seen = self.end is not None and state.end is not None
                found[name] = Sigma(state.ordinary, first, end if seen else None, state.removed)
        return found

    def drift(self) -> dict[str, float]:
        """Of each frozen path: the mean σ at the last tick over σ̂."""
        return {
            name: path.state.measured / path.state.ordinary
            for name, path in self._live.items()
            if path.state.removed and path.state.measured and path.state.ordinary
        }

    def stream_loss(self) -> Tensor | None:
        """mean_t (σ_t − stopgrad mean σ)² at the final norm's input in the last counted forward.

        Over the tokens that the ordinary σ̂ is for: no pads, and no first tokens and ends of text
        while they have their own. None where there was no such forward, or the final norm is no
        path. Source: arXiv 2507.02559, the auxiliary loss.
        """
        x = self._shared.stream
        if x is None:
            return None
        final = next(path.site.norm for path in self.paths if path.kind == "final")
        sigma = spread(x, final).flatten()
        wanted = torch.zeros(4, dtype=sigma.dtype, device=sigma.device)
        merged = self._shared.merged
        wanted[ORDINARY] = 1
        wanted[FIRST], wanted[END] = float(merged["first"] > 0), float(merged["end"] > 0)
        weights = wanted[self._shared.tokens.kinds(x.shape[:-1], x.device)]
        count = weights.sum().clamp(min=1)
        mean = (sigma.detach() * weights).sum() / count
        return ((sigma - mean).square() * weights).sum() / count

    # -- to and from a file ---------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """JSON values that `restore` takes, at a tick: exact."""
        paths = {name: path.state.to_dict() for name, path in self._live.items()}
        return {"paths": paths, "merged": dict(self._shared.merged)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state, of this model. Raises UsageError where the paths are others."""
        if set(state["paths"]) != set(self._live):
            odd = sorted(set(state["paths"]) ^ set(self._live))[0]
            raise UsageError(f"the saved state is of other paths: {odd}", "the same --sites")
        for name, path in self._live.items():
            path.state = PathState(**state["paths"][name])
        for which in self._shared.merged:
            self._shared.merged[which] = float(state["merged"][which])
        for path in self._live.values():
            path.changed()
        self._clear()

    def detach(self) -> None:
        """Give the model its own forward back."""
        for module, own in reversed(self._patched):
            if own is None:
                del module.forward
            else:
                module.forward = own
        for hook in self._hooks:
            hook.remove()
        self._patched, self._hooks = [], []
        self._shared.forget()
        self._shared.stream = None

    # -- inside ---------------------------------------------------------------------------------

    def _attach_sites(self) -> None:
        groups: dict[str, list[NormPath]] = {}
        for path in self.paths:
            groups.setdefault(path.site.name, []).append(path)
        for name, group in groups.items():
            module = self.model.get_submodule(name)
            live = [self._live[path.name] for path in group]
            partial = len(group) < group[0].shared
            site = LiveSite(group[0].site, module, live, self._shared, partial=partial)
            self._sites[name] = site
            if group[0].whole:
                final = group[0].kind == "final"
                self._patch(module, site.at_final if final else site.at_norm)
            else:
                self._patch(module, site.passing)
                self._attach_readers(site, group)

    def _attach_readers(self, site: LiveSite, group: Sequence[NormPath]) -> None:
        kept = LivePath(group[0].site.name, self._shared)  # of paths that were not asked for
        for reader in group[0].site.readers:
            module = self.model.get_submodule(reader.module)
            parts = [
                (self._live[path.name], part.channels)
                for path in group
                for part in path.parts
                if part.reader == reader
            ] or [(kept, None)]
            path, channels = parts[0]
            if channels is None:
                self._patch(module, plain_reader(site, path, module.forward))
            else:
                split = [(path, some) for path, some in parts if some is not None]
                size = self.model.get_parameter(reader.weight).shape[1 - reader.in_dim]
                rest = set(range(size)).difference(*(some for _, some in split))
                split += [(kept, tuple(sorted(rest)))] if rest else []
                self._patch(module, FusedReader(site, module, reader, split))

    def _patch(self, module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        self._patched.append((module, vars(module).get("forward")))
        module.forward = forward

    def _enter(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        arguments = {**dict(zip(self._names, args, strict=False)), **kwargs}
        counted = not self._still and (torch.is_grad_enabled() or self._observing)
        self._shared.forget()
        self._shared.stream = None
        self._shared.tokens = read_tokens(arguments, self.end, counted=counted)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        # blocks that a backward pass runs again come later, and count nothing
        self._shared.tokens.counted = False
        self._shared.forget()

    def _take(self, decay: float) -> None:
        names = list(self._sites)
        found = dict(zip(names, means([self._sites[name].sums for name in names]), strict=True))
        for path in self.paths:
            self._live[path.name].state.tick(found[path.site.name], decay)

    def _clear(self) -> None:
        for site in self._sites.values():
            site.sums.clear()


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise UsageError(f"a share is from 0 to 1, not {value}", "1 removes the whole of it")
    return float(value)


__all__ = ["Removal", "Sigma", "attach"]
