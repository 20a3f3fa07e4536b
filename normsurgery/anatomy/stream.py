"""From the graph to the anatomy: streams, writers, norm sites, readers, or the reason why not.

Source: "Pre-RMSNorm and Pre-CRMSNorm Transformers", arXiv 2305.14858.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from normsurgery.anatomy.doors import later_starts
from normsurgery.anatomy.model import Anatomy, Block, NormSite, Online, Stream
from normsurgery.anatomy.norms import Norm
from normsurgery.anatomy.reading import Reading
from normsurgery.anatomy.region import Region, explore
from normsurgery.anatomy.sites import blocks_of, innermost_blocks, place, site_of
from normsurgery.anatomy.trace import Node, Trace


def read_anatomy(
    trace: Trace,
    norms: Mapping[str, Norm],
    *,
    class_name: str,
    modules: Iterable[str],
    parameters: Iterable[str] = (),
    tied: Mapping[str, tuple[str, ...]],
) -> Anatomy:
    """What the traced model is made of.

    norms: by module name. modules, parameters: names of all, also of those that did not run.
    tied: parameter → its other names.
    """
    blocks = blocks_of(modules)
    regions = _regions(trace, norms)
    residual = [region for region in regions if region.residual]
    nodes = {node for region in residual for node in region.axes}
    streams = [_stream(trace, region, norms, blocks, nodes) for region in residual]
    others = [region for region in regions if region not in residual]
    streams += _sublayer_streams(trace, others, streams, norms, blocks)
    streams = [_unless_block_by_block(stream, streams) for stream in streams]
    unread = [name for name in parameters if name not in trace.parameters]
    streams = [_with_siblings(stream, unread) for stream in streams]
    in_stream = {name for stream in streams for name in stream.sites}
    sites = {
        node.module: site_of(
            node, norms[node.module], trace, nodes, blocks, residual=node.module in in_stream
        )
        for node in trace.norm_nodes()
    }
    sites = {name: _unless_unread(site, unread) for name, site in sites.items()}
    return Anatomy(
        class_name, tuple(blocks), sites, tuple(streams), tuple(trace.outputs), dict(tied)
    )


def _with_siblings(stream: Stream, unread: Sequence[str]) -> Stream:
    """The stream with the experts that no token was sent to: they write as their siblings do."""
    alike = {place(writer.weight): writer for writer in stream.writers if not writer.scale}
    more = []
    for name in unread:
        like = alike.get(place(name))
        if like is not None:
            module = name.rpartition(".")[0]
            bias = like.bias and f"{module}.{like.bias.rpartition('.')[2]}"
            more.append(replace(like, weight=name, module=module, bias=bias, shared=""))
    return replace(stream, writers=(*stream.writers, *more))


def _unless_unread(site: NormSite, unread: Sequence[str]) -> NormSite:
    """The site, whose γ and β stay where a sibling of one of its readers did not run."""
    places = {place(reader.weight) for reader in site.readers}
    missed = next((name for name in unread if place(name) in places), None)
    if missed is None or site.unfoldable:
        return site
    return replace(site, unfoldable=f"{missed} was not run on the example inputs")


def _regions(trace: Trace, norms: Mapping[str, Norm]) -> list[Region]:
    """What the norms read; streams that run through the same norms count as one."""
    regions: list[Region] = []
    for node in trace.norm_nodes():
        norm = norms[node.module]
        before = node.parents[0]
        if norm.kind == "BatchNorm" or any(before in region.axes for region in regions):
            continue
        assert before.value is not None
        region = explore(before, norm.axis % before.value.dim(), norms)
        region.residual = _is_residual(region)
        modules = {reader.module for reader in region.readers}
        twin = next((r for r in regions if modules & {n.module for n in r.readers}), None)
        if twin is None:
            regions.append(region)
        else:
            twin.absorb(region)
    return regions


def _stream(
    trace: Trace,
    region: Region,
    norms: Mapping[str, Norm],
    blocks: Sequence[Block],
    nodes: Collection[Node],
) -> Stream:
    """The region's stream; where something reads it raw, from where its mean may be removed on."""
    stream = Reading(trace, region, norms, blocks, nodes).stream()
    if not stream.why_not or not region.readers:  # no norm to start before
        return stream
    for door, rest in later_starts(trace, region, norms):
        if not _is_residual(rest):
            break  # a centring for the sake of one norm
        stem = Online(door.name, "input", stream.why_not[0])
        later = Reading(trace, rest, norms, blocks, nodes, stem).stream()
        if not later.why_not:
            return later
    return stream


def _unless_block_by_block(stream: Stream, streams: Sequence[Stream]) -> Stream:
    """The stream, refused where it ends with its block and all but the first need a centring."""
    places = set(map(place, stream.sites))
    alike = [other for other in streams if places & set(map(place, other.sites))]
    doors = [door for other in alike for door in other.online]
    lone = len(stream.sites) == 1 and stream.online
    ends = len(alike) > 1 and len(innermost_blocks(stream.sites)) == 1
    if stream.why_not or not doors or not (lone or ends):
        return stream
    reason = f"{doors[0].reason}; it would need a centring in every block"
    return replace(stream, why_not=(reason,))


def _sublayer_streams(
    trace: Trace,
    regions: Sequence[Region],
    residual: Sequence[Stream],
    norms: Mapping[str, Norm],
    blocks: Sequence[Block],
) -> list[Stream]:
    """Where blocks normalize what a sublayer has made before they add it (Swin v2): what those
    norms read, if weights alone make its mean zero."""
    if not any(stream.why_not and not stream.repeated for stream in residual):
        return []
    read = (region for region in regions if region.readers)
    found = [Reading(trace, region, norms, blocks, region.axes).stream() for region in read]
    return [stream for stream in found if not stream.why_not and not stream.online]


def _is_residual(region: Region) -> bool:
    """Whether something written to the stream was computed from the stream."""
    seen: set[Node] = set()
    queue = [parent for origin in region.origins for parent in origin.parents]
    while queue:
        node = queue.pop()
        if node in region.axes:
            return True
        if node not in seen:
            seen.add(node)
            queue += node.parents
    return False
