"""Whether a norm can be moved to the doors of its readers: each takes just what the norm gave.

Between the two a model may reshape; whatever else it does (pad, pool, drop) does not commute with
normalizing, and then the norm stays one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.model import NormSite


def open_doors(
    model: nn.Module, sites: Sequence[NormSite], inputs: Mapping[str, Tensor]
) -> set[str]:
    """Names of the sites whose readers can each normalize their own input.

    Every reader is a module of its own that belongs to this site alone, is called once on the
    norm's output (perhaps in another shape) and returns one tensor.
    """
    given: dict[str, list[Tensor]] = {}
    taken: dict[str, list[Tensor | None]] = {}
    modules = dict(model.named_modules())
    owners: dict[str, set[str]] = {}
    for site in sites:
        for reader in site.readers:
            owners.setdefault(reader.module, set()).add(site.name)
    with ExitStack() as stack:
        for site in sites:
            hook = modules[site.name].register_forward_hook(_note_given(given, site.name))
            stack.callback(hook.remove)
        for name in owners:
            if name in modules:
                noted = _note_taken(taken, name)
                hook = modules[name].register_forward_hook(noted, with_kwargs=True)
                stack.callback(hook.remove)
        stack.enter_context(torch.no_grad())
        if next(model.parameters()).dtype == torch.float64:
            stack.enter_context(Float64())
        model(**inputs)
    return {
        site.name
        for site in sites
        if all(
            owners[reader.module] == {site.name}
            and _same(given.get(site.name, []), taken.get(reader.module, []))
            for reader in site.readers
        )
    }


def _same(given: Sequence[Tensor], taken: Sequence[Tensor | None]) -> bool:
    if len(given) != 1 or len(taken) != 1 or taken[0] is None:
        return False
    one, other = given[0], taken[0]
    return one.shape[-1] == other.shape[-1] and torch.equal(one.flatten(), other.flatten())


def _note_given(given: dict[str, list[Tensor]], name: str) -> Callable[..., None]:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        given.setdefault(name, []).append(output)

    return note


def _note_taken(taken: dict[str, list[Tensor | None]], name: str) -> Callable[..., None]:
    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        fits = plain and isinstance(output, Tensor) and output.shape[:-1] == args[0].shape[:-1]
        taken.setdefault(name, []).append(args[0] if fits else None)

    return note
