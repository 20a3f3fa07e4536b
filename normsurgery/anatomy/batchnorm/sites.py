"""The words for BatchNorms and what they fold into.

At inference a BatchNorm is `a ⊙ x + c` along its channel axis, with `a = γ/√(σ² + ε)` and
`c = β − a μ`. All tensors are named as the model names them in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["producer", "consumer", "branch", "stays", "dead"]
FOLDED = ("producer", "consumer", "branch")


@dataclass(frozen=True)
class BatchNorm:
    """A module with running statistics [width].

    weight, bias: parameters or buffers, None where it has none. eps: what its forward really adds
    to the variance, whatever the module says. axis: of its input, along which the channels lie.
    activates: whether it applies an activation after the affine map.
    """

    name: str
    class_name: str
    width: int
    eps: float
    weight: str | None
    bias: str | None
    running_mean: str
    running_var: str
    activates: bool = False
    axis: int = 1


@dataclass(frozen=True)
class LinearMap:
    """A stored convolution or linear.

    module: the module that holds the weight and runs it; "" where a plain function call uses it.
    out_dim, in_dim: axes of the weight in memory. A grouped weight is [out, in / groups, …]; a
    transposed one [in, out / groups, …], whose output channel is (group, column).
    can_take_bias: False where the module has no place for a bias that its forward would add.
    """

    module: str
    weight: str
    bias: str | None
    out_dim: int
    in_dim: int
    groups: int = 1
    transposed: bool = False
    can_take_bias: bool = True


@dataclass(frozen=True)
class BatchNormSite:
    """What becomes of one norm.

    maps: producer: the one map before it; consumer: every map that reads it; branch: the one
    convolution of the same tensor (stride 1, "same") that its result is added to, whose centre tap
    takes the norm's diagonal; stays and dead: none. reason: why it stays, or is dead.
    centre: branch: index of the centre tap in the kernel's axes. sign: branch: -1 where the norm's
    result is subtracted from the convolution's. seen: whether an output of the model depends on it
    (the norms of an auxiliary head may only serve a loss): elsewhere no comparison can feel it.
    """

    norm: BatchNorm
    kind: Kind
    maps: tuple[LinearMap, ...] = ()
    reason: str = ""
    centre: tuple[int, ...] = ()
    sign: int = 1
    seen: bool = True

    @property
    def name(self) -> str:
        return self.norm.name


@dataclass(frozen=True)
class Merge:
    """Parallel convolutions of one tensor whose results are added: they are one convolution.

    Source: "RepVGG: Making VGG-style ConvNets Great Again", arXiv 2101.03697. Norms after the
    convolutions are folded first. identities: names of norms that are added beside them.
    offsets: for each of `others`, where its kernel lies in that of `into`.
    """

    into: LinearMap
    others: tuple[LinearMap, ...]
    identities: tuple[str, ...]
    offsets: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class BatchNorms:
    """Every BatchNorm of a model, in the order of its modules."""

    sites: tuple[BatchNormSite, ...]
    merges: tuple[Merge, ...] = ()

    def of(self, kind: Kind) -> tuple[BatchNormSite, ...]:
        return tuple(site for site in self.sites if site.kind == kind)

    @property
    def folded(self) -> tuple[BatchNormSite, ...]:
        return tuple(site for site in self.sites if site.kind in FOLDED)
