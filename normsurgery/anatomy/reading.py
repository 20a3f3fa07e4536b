"""One region on its way to a Stream: its writers, what must be centred online, and why not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from normsurgery.anatomy.axes import MOVES
from normsurgery.anatomy.doors import input_door, norm_door, output_door
from normsurgery.anatomy.model import Block, Online, RawReader, Stream, Writer
from normsurgery.anatomy.norms import Norm
from normsurgery.anatomy.region import Region
from normsurgery.anatomy.sites import common_module, in_blocks, reader_of, repeated
from normsurgery.anatomy.trace import NORM, Node, Trace
from normsurgery.anatomy.writers import sole_source, writer_of, writers_of


class Reading:
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
        """What the region is, and whether its mean may be removed."""
        some = next(iter(self.region.axes))
        assert some.value is not None
        exposed = tuple(n for n, node in self.trace.outputs.items() if node in self.region.axes)
        writers, opaque = writers_of(self.trace, self.region)
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
        source = sole_source(node, axis, shared=True)
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
            if (found := writer_of(self.region, node))
            and (shared := writers[found[0].weight].shared)
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


def _place(node: Node) -> str:
    return node.module or "the model's forward"
