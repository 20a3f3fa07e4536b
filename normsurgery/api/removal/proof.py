"""The proof of a norm-free result: the twin's files against the twin with its divisors frozen.

σ̂ is drawn at random for each path, around what its norm divides by on the twin, so that q/k and
v differ and the stream keeps its size. The reference is the model in memory with its norms
removed as training removes them. The controls are results made wrongly: two paths' σ̂
exchanged, the channels of a fused reader moved, P left out. The proof must notice each.
The stock form is proved with an ε so large that its own error is below float64's: what is left is
the algebra, held to the same bound as a graft.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.float64 import Float64
from normsurgery.anatomy.norm_paths import NormPath
from normsurgery.anatomy.probe import run_outputs
from normsurgery.anatomy.proof import FormClass, Operate, Proof, prove
from normsurgery.anatomy.runtime import single_thread
from normsurgery.anatomy.twin import Twin
from normsurgery.train.norms.attach import attach

PROOF_POWER = 30  # ε = 4³⁰: against it, float64 does not see a variance of 100


@dataclass(frozen=True)
class Variant:
    """How the result is made: rightly, or for a control wrongly."""

    paths: tuple[NormPath, ...]
    sigma: Mapping[str, float]
    centre: bool = True


@single_thread()
def prove_norm_free(
    examination: Examination,
    paths: Sequence[NormPath],
    operate: Callable[[Variant], Operate],
    forms: Mapping[str, FormClass],
    *,
    seed: int = 0,
    stock: bool = False,
    folds_mean: bool = False,
) -> Proof:
    """Prove an export on the twin, in float64.

    paths: of the twin. operate: variant → the surgery on the twin's files. forms: as in `prove`.
    stock: whether the result keeps its class, whose ε is `PROOF_POWER`'s then. folds_mean: whether
    some reader holds a P.
    Raises VerificationError naming the output or the form that is wrong.
    """
    with _frozen(examination.twin, paths, seed) as sigma:
        reference = run_outputs(examination.twin.model, examination.twin.inputs)
    right = Variant(tuple(paths), sigma)
    wrong = {name: operate(variant) for name, variant in _wrong(right, folds_mean).items()}
    return prove(
        examination, operate(right), forms, exclusive=not stock, reference=reference, wrong=wrong
    )


@contextmanager
def _frozen(twin: Twin, paths: Sequence[NormPath], seed: int) -> Iterator[dict[str, float]]:
    """While open, the paths of the twin are removed, at the σ̂ that this yields: each between half
    of what its norm divides by and twice that, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.rand(len(paths), generator=generator, dtype=torch.float64) * 1.5 + 0.5
    removal = attach(twin.model, paths)
    try:
        with Float64():
            removal.observe([twin.inputs])
        state = removal.state()
        for path, factor in zip(paths, factors, strict=True):
            state["paths"][path.name]["ordinary"] *= float(factor)
            state["paths"][path.name]["share"] = 1.0
        state["merged"] = dict.fromkeys(state["merged"], 1.0)
        removal.restore(state)
        yield {name: sigma.ordinary for name, sigma in removal.sigmas().items()}
    finally:
        removal.detach()


def _wrong(right: Variant, folds_mean: bool) -> dict[str, Variant]:
    """Results that the proof must tell from the right one."""
    names = [path.name for path in right.paths]
    turned = dict(zip(names, [right.sigma[name] for name in names[1:] + names[:1]], strict=True))
    if len(names) == 1:
        turned = {names[0]: right.sigma[names[0]] * 1.5}
    found = {"σ̂ exchanged": replace(right, sigma=turned)}
    moved = tuple(_moved(path, right.paths) for path in right.paths)
    if moved != right.paths:
        found["channels moved"] = replace(right, paths=moved)
    if folds_mean:
        found["P left out"] = replace(right, centre=False)
    return found


def _moved(path: NormPath, paths: Sequence[NormPath]) -> NormPath:
    """The path with the output channels of its fused readers moved on by one."""
    parts: list[Any] = []
    for part in path.parts:
        if part.channels is not None:
            total = sum(
                len(other.channels)
                for one in paths
                for other in one.parts
                if other.reader.weight == part.reader.weight and other.channels is not None
            )
            part = replace(part, channels=tuple((c + 1) % total for c in part.channels))
        parts.append(part)
    return replace(path, parts=tuple(parts))
