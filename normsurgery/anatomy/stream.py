"""From the graph to the anatomy: streams, writers, norm sites, readers, or the reason why not.

Source: "Pre-RMSNorm and Pre-CRMSNorm Transformers", arXiv 2305.14858.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from normsurgery.anatomy.axes import MOVES, SCALINGS, carriers, parent_axis
from normsurgery.anatomy.doors import input_door, later_starts, norm_door, output_door
from normsurgery.anatomy.linears import Stored, as_linear, output_axis, stored
from normsurgery.anatomy.model import Anatomy, Block, Online, RawReader, Stream, Writer
from normsurgery.anatomy.norms import Norm
from normsurgery.anatomy.region import Region, explore, nonzero
from normsurgery.anatomy.sites import (
    blocks_of,
    common_module,
    in_blocks,
    innermost_blocks,
    place,
    reader_of,
    repeated,
    site_of,
)
from normsurgery.anatomy.trace import NORM, Node, Trace


def read_anatomy(
    trace: Trace,
    norms: Mapping[str, Norm],
    *,
    class_name: str,
    modules: Iterable[str],
    tied: Mapping[str, tuple[str, ...]],
) -> Anatomy:
    """What the traced model is made of.

    norms: by module name. modules: names of all modules. tied: parameter → its other names.
    """
    blocks = blocks_of(modules)
    regions = _regions(trace, norms)
    residual = [region for region in regions if region.residual]
    nodes = {node for region in residual for node in region.axes}
    streams = [_stream(trace, region, norms, blocks, nodes) for region in residual]
    others = [region for region in regions if region not in residual]
    streams += _sublayer_streams(trace, others, streams, norms, blocks)
    streams = [_unless_block_by_block(stream, streams) for stream in streams]
    in_stream = {name for stream in streams for name in stream.sites}
    covered = {node for region in regions for node in region.axes}
    sites = {
        node.module: site_of(
            node, norms[node.module], trace, covered, blocks, residual=node.module in in_stream
        )
        for node in trace.norm_nodes()
    }
    return Anatomy(
        class_name, tuple(blocks), sites, tuple(streams), tuple(trace.outputs), dict(tied)
    )


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
    stream = _Reading(trace, region, norms, blocks, nodes).stream()
    if not stream.why_not:
        return stream
    for door, rest in later_starts(trace, region, norms):
        if not _is_residual(rest):
            break  # a centring for the sake of one norm
        stem = Online(door.name, "input", stream.why_not[0])
        later = _Reading(trace, rest, norms, blocks, nodes, stem).stream()
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
    found = [_Reading(trace, region, norms, blocks, region.axes).stream() for region in read]
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


class _Reading:
    """One region on its way to a Stream."""

    def __init__(
        self,
        trace: Trace,
        region: Region,
        norms: Mapping[str, Norm],
        blocks: Sequence[Block],
        streams: Collection[Node],
        stem: Online | None = None,
    ) -> None:
        self.trace, self.region, self.norms, self.blocks = trace, region, norms, blocks
        self.streams = streams  # the nodes of all residual streams
        self.stem = stem

    def stream(self) -> Stream:
        some = next(iter(self.region.axes))
        assert some.value is not None
        exposed = tuple(n for n, node in self.trace.outputs.items() if node in self.region.axes)
        writers, opaque = self._writers()
        reasons = [*self._raw_read_reasons(opaque), *self._odd_reasons()]
        if exposed and len(exposed) == len(self.trace.outputs):
            reasons.append(f"output {exposed[0]} is the stream itself, mean included")
        online: list[Online] = [self.stem] if self.stem else []
        if not reasons:
            more, reasons = self._centrings(writers, opaque)
            online += more
        raw = [
            found for node, reader in self.region.raw_reads
            if (found := self._raw_reader(node, reader))
        ]  # fmt: skip
        sites = list(
            dict.fromkeys(
                node.module
                for node in self.trace.norm_nodes()
                if node.parents[0] in self.region.axes
            )
        )
        return Stream(
            part=common_module(sites), repeated=any(in_blocks(s, self.blocks) for s in sites),
            width=some.value.shape[self.region.axes[some]],
            sites=tuple(sites), writers=tuple(writers.values()), online=tuple(online),
            exposed=exposed, why_not=tuple(dict.fromkeys(reasons)), raw_readers=tuple(raw),
        )  # fmt: skip

    # -- writers ------------------------------------------------------------------------------

    def _writers(self) -> tuple[dict[str, Writer], list[Node]]:
        """Origins that are stored weights, by weight name; and those that are not."""
        writers: dict[str, Writer] = {}
        uses: list[Stored] = []
        opaque: list[Node] = []
        for node in self.region.origins:
            read = self._writer(node)
            if read is not None:
                writer, seen = read
                uses += seen
                if writers.setdefault(writer.weight, writer) != writer:
                    writer = replace(writer, module=writers[writer.weight].module)
                    if writer != writers[writer.weight]:
                        opaque.append(node)  # one weight in two different roles
            elif nonzero(node):
                opaque.append(node)
        shared = self._shared(uses)
        return (
            {name: replace(w, shared=shared.get(name, "")) for name, w in writers.items()},
            opaque,
        )

    def _writer(self, node: Node) -> tuple[Writer, list[Stored]] | None:
        axis = self.region.axes[node]
        if node.is_parameter:
            return (
                Writer(node.module, "parameter", axis, node.module.rpartition(".")[0]),
                [Stored(node.module, axis, (c,)) for c in node.consumers if c in self.region.axes],
            )
        if node.op in SCALINGS:
            return self._scaled_writer(node, axis)
        linear = as_linear(node)
        if linear is None or output_axis(linear) != axis:
            return None
        if linear.kind == "convolution" and linear.in_dim is None:
            return None  # in groups: its channels read different inputs, so no mean leaves them all
        weight = stored(linear.weight, linear.out_dim, node)
        bias = stored(linear.bias, 0, node) if linear.bias is not None else None
        if weight is None or (linear.bias is not None and bias is None):
            return None
        writer = Writer(
            weight.name, linear.kind, weight.axis, node.module, bias.name if bias else None
        )
        return writer, [weight, *([bias] if bias else [])]

    def _scaled_writer(self, node: Node, axis: int) -> tuple[Writer, list[Stored]] | None:
        """A linear times a stored per-channel gain (LayerScale), and nobody else reads either."""
        pair = carriers(node, axis)
        if len(pair) != 2 or "div" in node.op:
            return None
        for (gain, gain_axis), (made, made_axis) in (pair, pair[::-1]):
            scale = stored(gain, gain_axis, node)
            inner = _sole_source(made, made_axis)
            if scale is None or inner is None or gain.value is None:
                continue
            if gain.value.numel() != gain.value.shape[gain_axis]:
                continue
            self.region.axes.setdefault(inner[0], inner[1])
            read = self._writer(inner[0])
            del self.region.axes[inner[0]]
            if read is not None and read[0].kind != "parameter":
                return replace(read[0], scale=scale.name), [*read[1], scale]
        return None

    def _shared(self, uses: list[Stored]) -> dict[str, str]:
        """Parameters that something outside the stream's writers also reads, with what does."""
        allowed = {node for use in uses for node in use.path}
        shared: dict[str, str] = {}
        for use in uses:
            for consumer in self.trace.parameters[use.name].consumers:
                if consumer not in allowed:
                    shared[use.name] = consumer.module
            for step in use.path[:-1]:
                if any(consumer not in allowed for consumer in step.consumers):
                    shared[use.name] = step.module
        return shared

    # -- reasons ------------------------------------------------------------------------------

    def _raw_read_reasons(self, opaque: list[Node]) -> Iterable[str]:
        outputs_of_norms = {
            node for node in opaque if node.op == NORM and in_blocks(node.module, self.blocks)
        }
        for node, consumer in self.region.raw_reads:
            if self._raw_reader(node, consumer):
                continue
            if node in outputs_of_norms:
                yield (
                    f"{node.module} is post-LN: the residual stream is the norm's output, "
                    "so there is no redundant mean to remove"
                )
            elif consumer.op == NORM:
                kind = self.norms[consumer.module].kind
                yield f"{consumer.module} is a {kind}: it reads the stream with its mean"
            else:
                yield f"{_place(consumer)} reads the stream without a norm ({consumer.op})"

    def _raw_reader(self, node: Node, consumer: Node) -> RawReader | None:
        """The linear that reads the stream where it is still a norm's output, nothing added."""
        axis = self.region.axes[node]
        source = _sole_source(node, axis, shared=True)
        reader = reader_of(node, axis, consumer)
        if source is None or reader is None or source[0].op != NORM:
            return None
        norm = self.norms[source[0].module]
        if in_blocks(norm.name, self.blocks):
            return None  # post-LN: it would ask for a centring in every block
        uses = [c for c in self.trace.parameters[reader.weight].consumers if c.op not in MOVES]
        if norm.kind != "LayerNorm" or uses != [consumer] or (norm.bias and not reader.bias):
            return None
        return RawReader(reader, norm)

    def _odd_reasons(self) -> Iterable[str]:
        for node in self.region.mixed:
            yield f"{_place(node)} mixes the stream's channels or changes it in place ({node.op})"
        for node in self.region.offsets:
            yield f"{_place(node)} adds a constant along the channels ({node.op})"

    # -- centring what no weight holds -----------------------------------------------------------

    def _centrings(
        self, writers: Mapping[str, Writer], opaque: list[Node]
    ) -> tuple[list[Online], list[str]]:
        wanted = [(node, self._describe(node)) for node in opaque]
        wanted += [
            (node, f"{writers[found[0].weight].weight} is read by {shared} too")
            for node in self.region.origins
            if (found := self._writer(node)) and (shared := writers[found[0].weight].shared)
        ]
        online: dict[tuple[str, str], Online] = {}
        reasons: list[str] = []
        for node, reason in wanted:
            door = output_door(self.trace, self.region, node, self.streams)
            door = door or input_door(self.trace, self.region, node)
            door = door or norm_door(self.region, node, self.blocks)
            if door is None:
                reasons.append(f"{reason}; no module's door is there to centre it at")
            else:
                online.setdefault(door, Online(*door, reason))
        for module in repeated(door.module for door in online.values()):
            reason = next(door.reason for door in online.values() if door.module == module)
            reasons.append(f"{reason}; it would need a centring in every block")
        return list(online.values()), reasons

    def _describe(self, node: Node) -> str:
        if node.op == NORM:
            return f"{node.module} writes its output to the stream"
        if node.op in ("constant", "buffer"):
            return f"{_place(node)} adds a table that code computes"
        return f"{_place(node)} writes the output of {node.op} to the stream"


def _sole_source(node: Node, axis: int, *, shared: bool = False) -> tuple[Node, int] | None:
    """Follow a chain of moves back to what made the numbers.

    shared: others may read the tensors on the way too.
    """
    while shared or len(node.consumers) == 1:
        if node.op not in MOVES:
            return node, axis
        floats = [p for p in node.parents if p.value is not None and p.value.is_floating_point()]
        position = parent_axis(node, axis, floats[0]) if len(floats) == 1 else None
        if position is None:
            return None
        node, axis = floats[0], position
    return None


def _place(node: Node) -> str:
    return node.module or "the model's forward"
