"""Give BatchNorms statistics that were measured anew, and a place for them where they were folded.

Contract: fitted. A norm computes g ⊙ x + s. Written with running_mean m and running_var v, weight
g √(v + ε) and bias s + g m it computes the same, whatever m and v are. With the m and v that its
input had in the original, it is a norm again: other statistics in their place bring its output back
to the mean and the variance that it had there. Where the norm's scale had been folded into the map
before it, these are m = (β − s) / g and v = (γ / g)² σ² / (σ² + ε) of the original's β, γ and σ
(arXiv 2006.10518, with ε not left out); where into the maps after it, its input never changed, and
they are the original's own. A scale that went into a convolution beside the norm has no such place:
that convolution would not follow the new statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from normsurgery.anatomy.batchnorm.sites import BatchNorm
from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.receipt import Receipt
from normsurgery.surgery.set_parameters import set_parameters

_FOLDED = 1e-3  # a gain this near to 1 on every channel


@dataclass(frozen=True)
class NormValues:
    """A BatchNorm's numbers, each [width] in float64; weight and bias 1 and 0 where it has none."""

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    @property
    def gain(self) -> Tensor:
        """g of g ⊙ x + s."""
        return self.weight / (self.variance + self.eps).sqrt()

    @property
    def shift(self) -> Tensor:
        """s of g ⊙ x + s."""
        return self.bias - self.gain * self.mean

    @property
    def is_folded(self) -> bool:
        """Whether it only adds: one variance for all channels, no mean, a gain of 1."""
        flat = bool((self.variance == self.variance[0]).all()) and not bool(self.mean.any())
        return flat and bool(((self.gain - 1).abs() < _FOLDED).all())


def reinserted(folded: NormValues, original: NormValues, *, producer: bool) -> NormValues:
    """The folded norm, written with the statistics that its input had in the original model.

    producer: whether its scale went into the map before it. It computes what it computed.
    """
    gain, shift = folded.gain, folded.shift
    mean, variance = original.mean, original.variance
    if producer:
        mean = (original.bias - shift) / gain
        variance = (original.gain / gain).square() * original.variance
    scale = gain * (variance + folded.eps).sqrt()
    return NormValues(mean, variance, scale, shift + gain * mean, folded.eps)


def values_of(checkpoint: Checkpoint, names: NameMap, norm: BatchNorm) -> NormValues:
    """The norm's numbers as they are stored."""

    def read(parameter: str | None, instead: float) -> Tensor:
        if parameter is None:
            return torch.full_like(mean, instead)
        return checkpoint[names.on_disk(parameter)[0][0]].load().double().flatten()

    mean = checkpoint[names.on_disk(norm.running_mean)[0][0]].load().double().flatten()
    return NormValues(
        mean, read(norm.running_var, 1.0), read(norm.weight, 1.0), read(norm.bias, 0.0), norm.eps
    )


def tensors_of(norm: BatchNorm, values: NormValues) -> dict[str, Tensor]:
    """The norm's tensors by name in memory; a weight or bias that it does not have is left out."""
    named = {
        norm.running_mean: values.mean,
        norm.running_var: values.variance,
        norm.weight: values.weight,
        norm.bias: values.bias,
    }
    return {name: value for name, value in named.items() if name is not None}


def recalibrate(
    source: Checkpoint,
    names: NameMap,
    norms: Mapping[str, tuple[BatchNorm, NormValues]],
    *,
    reinserted_norms: int,
    samples: int,
) -> tuple[Checkpoint, Receipt]:
    """The checkpoint with these norms' values, and the receipt. samples: measured on so many."""
    values: dict[str, Tensor] = {}
    for norm, new in norms.values():
        values |= tensors_of(norm, new)
    return set_parameters(
        source, names, values, surgery="recalibrate", contract="fitted",
        parameters={"norms": len(norms), "reinserted": reinserted_norms, "samples": samples},
    )  # fmt: skip
