"""Which rows of a block's readers make which channels of a writer's input: heads and neurons.

Units of a block are interchangeable if permuting their rows in the readers permutes the writer's
input and changes nothing else. That is asked of the block itself: layouts are proposed from shapes
(rows in sections such as q, k, v, or a head's rows side by side), and a random permutation on real
text accepts or refuses them. So rotary embeddings, grouped queries and fused linears need no name,
and heads that their place distinguishes (ALiBi slopes, sinks) are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from normsurgery.anatomy.model import NormSite, Reader
from normsurgery.calibrate.fit.blocks import LoadedBlock

_AGREEMENT = 1e-4  # × the largest entry, in float32; other layouts are wrong by order one
_ROWS = 2  # of text, for a witness


@dataclass(frozen=True)
class Units:
    """A writer's input as `count` units of equal width.

    readers: those that make it. site: the norm whose output they read. sections: per reader, the
    rows of its output in sections that each hold all units in order.
    """

    count: int
    channels: int
    site: NormSite
    readers: tuple[Reader, ...]
    sections: tuple[tuple[int, ...], ...]

    def input_channels(self, units: Tensor) -> Tensor:
        """Channels of the writer's input that belong to some units, in that order."""
        return _expanded(units, self.channels // self.count)

    def rows(self, reader: int, units: Tensor) -> Tensor:
        """Rows of a reader's output that belong to some units; section after section."""
        starts, found = 0, []
        for size in self.sections[reader]:
            found.append(starts + _expanded(units, size // self.count))
            starts += size
        return torch.cat(found)


def _expanded(units: Tensor, width: int) -> Tensor:
    return (units[:, None] * width + torch.arange(width)).flatten()


def find_units(
    block: LoadedBlock, writers: Sequence[str], x: Tensor,
    known: Mapping[tuple[int, int], Units] | None = None,
) -> list[Units | None]:  # fmt: skip
    """The finest interchangeable units of each writer's input; None where there are none.

    writers: module paths in the order of addition. x: the stream before the block, of batch 0.
    known: by (readers, channels), units of another block, whose layout is tried first.
    """
    probe = _Probe(block, x)
    plain = probe.inputs(writers)
    owned: list[list[tuple[NormSite, Reader]]] = [[] for _ in writers]
    for site, reader in _readers(block):
        for place in range(len(writers)):
            # the first whose input it changes: later ones see it through the stream
            if probe.changes(reader, writers[place], plain[place]):
                owned[place].append((site, reader))
                break
    return [
        _units(probe, writer, plain[place], owned[place], known or {})
        for place, writer in enumerate(writers)
    ]


class _Probe:
    """Runs of a block on the first batch, with other weights in its readers."""

    def __init__(self, block: LoadedBlock, x: Tensor) -> None:
        self.block, self.x = block, x
        self.prefix = f"{block.blockwise.stack.blocks[block.index]}."

    def inputs(self, writers: Sequence[str]) -> list[Tensor]:
        found = self.block.taken(0, self.x, writers).inputs
        return [found[writer][:_ROWS] for writer in writers]

    def local(self, name: str) -> str:
        return name.removeprefix(self.prefix)

    def changes(self, reader: Reader, writer: str, plain: Tensor) -> bool:
        name = self.local(reader.weight)
        # rows in other places; another scale would not show where a q/k norm follows
        other = self.block.module.get_parameter(name).data.roll(1, 1 - reader.in_dim)
        with self.block.lent({name: other}):
            found = self.inputs([writer])[0]
        return not _same(found, plain)

    def permuted(self, units: Units, order: Tensor, writer: str) -> Tensor:
        values = {}
        for index, reader in enumerate(units.readers):
            natural = units.rows(index, torch.arange(units.count))
            for name, axis in _row_axes(reader):
                value = self.block.module.get_parameter(self.local(name)).data
                other = value.clone()
                other.index_copy_(axis, natural, value.index_select(axis, units.rows(index, order)))
                values[self.local(name)] = other
        with self.block.lent(values):
            return self.inputs([writer])[0]


def _row_axes(reader: Reader) -> Iterator[tuple[str, int]]:
    yield reader.weight, 1 - reader.in_dim
    if reader.bias is not None:
        yield reader.bias, 0


def _readers(block: LoadedBlock) -> Iterator[tuple[NormSite, Reader]]:
    """Linears of the block that read a norm of the stream, none of them twice."""
    prefix = f"{block.blockwise.stack.blocks[block.index]}."
    seen: set[str] = set()
    for site in block.blockwise.examination.anatomy.sites.values():
        for reader in site.readers:
            inside = reader.weight.startswith(prefix) and site.name.startswith(prefix)
            if inside and reader.weight not in seen and _is_matrix(block, reader, prefix):
                seen.add(reader.weight)
                yield site, reader


def _is_matrix(block: LoadedBlock, reader: Reader, prefix: str) -> bool:
    return block.module.get_parameter(reader.weight.removeprefix(prefix)).dim() == 2


def _units(
    probe: _Probe, writer: str, plain: Tensor, owned: Sequence[tuple[NormSite, Reader]],
    known: Mapping[tuple[int, int], Units],
) -> Units | None:  # fmt: skip
    sites = {site.name: site for site, _ in owned}
    if len(sites) != 1 or float(plain.abs().max()) == 0.0:
        return None
    site = next(iter(sites.values()))
    readers = tuple(reader for _, reader in owned)
    channels = int(plain.shape[-1])
    generator = torch.Generator().manual_seed(0)
    outputs = [_outputs(probe, reader) for reader in readers]
    proposed = _proposals(channels, site, readers, outputs)
    like = known.get((len(readers), channels))
    if like is not None and [sum(rows) for rows in like.sections] == outputs:
        proposed = chain([replace(like, site=site, readers=readers)], proposed)
    for units in proposed:
        order = _cycle(units.count, generator)
        found = probe.permuted(units, order, writer)
        if _same(found, plain[..., units.input_channels(order)]):
            return units
    return None


def _cycle(count: int, generator: torch.Generator) -> Tensor:
    """A random permutation that leaves nothing in its place."""
    ring = torch.randperm(count, generator=generator)
    order = torch.empty_like(ring)
    order[ring] = ring.roll(1)
    return order


def _outputs(probe: _Probe, reader: Reader) -> int:
    value = probe.block.module.get_parameter(probe.local(reader.weight))
    return int(value.shape[1 - reader.in_dim])


def _proposals(
    channels: int, site: NormSite, readers: tuple[Reader, ...], outputs: Sequence[int]
) -> Iterator[Units]:
    """Layouts from fine to coarse; at least two units."""
    layouts = [
        tuple(way(rows, channels) for rows in outputs)
        for way in (_equal_sections, _query_key_value, lambda rows, channels: (rows,))
    ]
    for count in range(channels, 1, -1):
        if channels % count:
            continue
        for sections in dict.fromkeys(layouts):
            if all(size % count == 0 for reader in sections for size in reader):
                yield Units(count, channels, site, readers, sections)


def _equal_sections(rows: int, channels: int) -> tuple[int, ...]:
    """A fused reader's rows: gate and up, or q, k and v with as many heads each."""
    return (channels,) * (rows // channels) if rows % channels == 0 else (rows,)


def _query_key_value(rows: int, channels: int) -> tuple[int, ...]:
    """A fused reader's rows: q, k and v, of which k and v have fewer heads."""
    shared, odd = divmod(rows - channels, 2)
    return (channels, shared, shared) if shared > 0 and not odd else (rows,)


def _same(left: Tensor, right: Tensor) -> bool:
    scale = float(right.abs().max())
    return float((left - right).abs().max()) <= _AGREEMENT * scale
