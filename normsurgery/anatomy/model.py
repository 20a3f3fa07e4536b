"""The words for what a model is made of: writers, readers, norm sites, streams, blocks.

All tensors are named as the model names them in memory; `names.py` translates to the names on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from normsurgery.anatomy.norms import Norm


@dataclass(frozen=True)
class Writer:
    """A tensor whose output is added to a residual stream.

    kind: "linear", "embedding", "convolution" or "parameter". stream_dim: the axis of `weight`
    along which the stream's channels lie (bias: its only axis). scale: a per-channel gain applied
    after it (LayerScale). shared: what else reads the weight, or "" (a tied table: the head).
    """

    weight: str
    kind: str
    stream_dim: int
    module: str
    bias: str | None = None
    scale: str | None = None
    shared: str = ""


@dataclass(frozen=True)
class Reader:
    """A linear that consumes a norm's output. in_dim: the axis of `weight` that it contracts."""

    weight: str
    in_dim: int
    module: str
    bias: str | None = None


@dataclass(frozen=True)
class NormSite:
    """A norm module with its readers.

    role: "attention", "mlp", "attention + mlp" or "final" for a site that reads a residual stream;
    "stem" (before the blocks), "inner" (q/k and the like) or "head" for one that does not.
    unfoldable: why γ and β cannot move into the readers, or "".
    table: the embedding table whose looked-up rows are all that this norm reads, or None.
    """

    norm: Norm
    role: str
    readers: tuple[Reader, ...]
    unfoldable: str = ""
    table: str | None = None

    @property
    def name(self) -> str:
        return self.norm.name


@dataclass(frozen=True)
class Online:
    """A centring that no weight can hold: subtract the channel mean at a module's door.

    at: "input" or "output" of `module`. reason: the operation that made it necessary.
    """

    module: str
    at: str
    reason: str


@dataclass(frozen=True)
class RawReader:
    """A linear that reads a norm's output as part of the stream, with its mean.

    That output lies in a hyperplane, Σ (vᵢ − βᵢ)/γᵢ = 0, so the linear can be made to ignore the
    mean. norm: the norm whose output it is.
    """

    reader: Reader
    norm: Norm


@dataclass(frozen=True)
class Stream:
    """A residual stream: what writes to it, the norm sites that read it, and what forbids centring.

    part: the innermost module that holds all of its norm sites. repeated: whether blocks read it
    (else only a norm before or after them does). raw_readers: linears to be folded first.
    exposed: model outputs that show the stream itself. why_not: reasons against removing its mean
    (empty: every reader ignores the mean, so it may be removed).
    """

    part: str
    repeated: bool
    width: int
    sites: tuple[str, ...]
    writers: tuple[Writer, ...]
    online: tuple[Online, ...]
    exposed: tuple[str, ...]
    why_not: tuple[str, ...]
    raw_readers: tuple[RawReader, ...] = ()


@dataclass(frozen=True)
class Block:
    """A list of repeated layers: module name of the list, and how many it has."""

    name: str
    count: int


@dataclass(frozen=True)
class Anatomy:
    """Everything that a surgery needs to know of a model."""

    class_name: str
    blocks: tuple[Block, ...]
    sites: dict[str, NormSite]
    streams: tuple[Stream, ...]
    outputs: tuple[str, ...]
    tied: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def layer_norm_streams(self) -> Iterator[Stream]:
        """Residual streams that LayerNorms read."""
        for stream in self.streams:
            if any(self.sites[name].norm.kind == "LayerNorm" for name in stream.sites):
                yield stream

    def convertible(self) -> list[Stream]:
        """Residual streams whose mean may be removed."""
        return [stream for stream in self.layer_norm_streams() if not stream.why_not]

    @property
    def exposed(self) -> tuple[str, ...]:
        """Outputs that show a convertible stream with its mean."""
        return tuple(name for stream in self.convertible() for name in stream.exposed)

    @property
    def left(self) -> dict[str, str]:
        """LayerNorms outside the blocks that stay LayerNorms beside those that convert, and why."""
        return {
            name: stream.why_not[0]
            for stream in self.layer_norm_streams()
            if stream.why_not and not stream.repeated and self.convertible()
            for name in stream.sites
        }

    def only(self, part: str) -> Anatomy:
        """The same anatomy with no other streams than those of one part of the model.

        part: a module name; every stream whose norm sites lie in that module is kept.
        """
        kept = tuple(s for s in self.streams if f"{s.part}.".startswith(f"{part}."))
        return replace(self, streams=kept)

    def convertible_parts(self) -> list[str]:
        """Parts with blocks that convert on their own, by module name, the most norms first."""
        parts = dict.fromkeys(s.part for s in self.convertible() if s.repeated and s.part)
        exact = [part for part in parts if self.only(part).why_not() is None]
        norms = {part: sum(len(s.sites) for s in self.only(part).streams) for part in exact}
        return sorted(exact, key=lambda part: -norms[part])

    def why_not(self) -> str | None:
        """Why LayerNorm → RMSNorm does not apply to the whole model, or None."""
        blocking = (s for s in self.layer_norm_streams() if s.repeated or not self.convertible())
        reasons = [reason for stream in blocking for reason in stream.why_not]
        if reasons:  # post-LN explains the raw reads that come with it
            return next((reason for reason in reasons if "post-LN" in reason), reasons[0])
        if self.convertible():
            return None
        kinds = {site.norm.kind for site in self.sites.values()}
        if "LayerNorm" in kinds:
            return "no LayerNorm reads a residual stream"
        return "its norms are RMSNorm already" if "RMSNorm" in kinds else "it has no LayerNorm"
