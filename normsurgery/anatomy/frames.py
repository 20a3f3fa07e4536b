"""Frames: everything that would have to turn if the channels of a residual stream were turned.

A stream x may be replaced by Q x, Q orthogonal, if whatever writes to it writes Q w and whatever
reads it reads Qᵀ. Additions, one factor a token, moves of tokens and norms without a per-channel
gain pass Q on: |Q x| = |x|, and a LayerNorm's centring commutes with a Q that keeps the all-ones
vector. So a frame is what is reached through those, and its border must be stored weights.
Sources: QuaRot, arXiv 2404.00456; SpinQuant, arXiv 2405.16406.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from normsurgery.anatomy.axes import ADDITIONS, MOVES, SCALINGS
from normsurgery.anatomy.linears import Stored, as_linear, stored
from normsurgery.anatomy.model import Anatomy
from normsurgery.anatomy.norms import Norm, find_norms
from normsurgery.anatomy.push import trace_of
from normsurgery.anatomy.region import Region, nonzero, passed_on, step_back
from normsurgery.anatomy.sites import common_module, place
from normsurgery.anatomy.trace import NORM, Node, Trace
from normsurgery.anatomy.twin import Twin
from normsurgery.anatomy.writers import shared_uses, writer_of

_TURNING_NORMS = ("RMSNorm", "LayerNorm")


@dataclass(frozen=True)
class Turn:
    """A parameter and its axis along which the stream's channels lie.

    writes: whether it writes to the frame (else it reads it).
    """

    parameter: str
    axis: int
    writes: bool


@dataclass(frozen=True)
class Frame:
    """A stream with the norms that it passes.

    part: the innermost module that holds its norms. turns: what turns with it. norms: their γ must
    be one number each when it turns. scales: per-channel gains after a writer, of which the same
    holds. keeps_ones: Q must keep the all-ones vector. shown: outputs of the model that turn.
    why_not: reasons against turning it at all.
    """

    part: str
    turns: tuple[Turn, ...]
    norms: tuple[Norm, ...]
    scales: tuple[str, ...]
    keeps_ones: bool
    shown: tuple[str, ...]
    why_not: tuple[str, ...]


def read_frames(twin: Twin, anatomy: Anatomy) -> tuple[Frame, ...]:
    """The frames of the model's residual streams, in order of execution, by one more trace.

    Frames that share a parameter turn together: they are refused together, and their rotations
    keep the all-ones vector together.
    """
    norms = find_norms(twin.model, twin.shapes)
    recorded = trace_of(twin)
    reading = {name for stream in anatomy.streams for name in stream.sites}
    walks: list[_Walk] = []
    for node in recorded.norm_nodes():
        if node.module not in reading or any(node in walk.region.axes for walk in walks):
            continue
        if norms[node.module].kind in _TURNING_NORMS:
            walks.append(_Walk(recorded, norms))
            walks[-1].run(node)
    _refuse_shared(recorded, walks)
    unread = [
        name
        for name, _ in twin.model.named_parameters()
        if name not in recorded.parameters and name.rpartition(".")[0] not in norms
    ]
    return tuple(_with_siblings(frame, unread) for frame in _in_step([w.frame() for w in walks]))


def _refuse_shared(recorded: Trace, walks: Sequence[_Walk]) -> None:
    """Give every frame a reason where something outside of all frames reads what would turn."""
    uses = [use for walk in walks for use in walk.uses]
    shared = shared_uses(recorded, uses)
    for walk in walks:
        for name in dict.fromkeys(use.name for use in walk.uses):
            if name in shared and name not in walk.scales:
                walk.refuse(f"{name} is read by {shared[name] or 'the model itself'} too")


def _in_step(frames: Sequence[Frame]) -> list[Frame]:
    """The frames, those that share a parameter made to agree."""
    agreed = list(frames)
    for _ in frames:  # as long a chain as there can be
        for place_, frame in enumerate(agreed):
            held = {turn.parameter for turn in frame.turns}
            kin = [one for one in agreed if held & {turn.parameter for turn in one.turns}]
            reasons = tuple(dict.fromkeys(why for one in kin for why in one.why_not))
            agreed[place_] = replace(
                frame,
                keeps_ones=any(one.keeps_ones for one in kin),
                why_not=frame.why_not or reasons,
            )
    return agreed


def _with_siblings(frame: Frame, unread: Sequence[str]) -> Frame:
    """The frame with the experts that no token was sent to: they turn as their siblings do."""
    alike: dict[str, list[Turn]] = {}
    for turn in frame.turns:
        alike.setdefault(place(turn.parameter), []).append(turn)
    more = [
        replace(turn, parameter=name)
        for name in unread
        for turn in dict.fromkeys(replace(t, parameter="") for t in alike.get(place(name), []))
    ]
    return replace(frame, turns=(*frame.turns, *more))


@dataclass(eq=False)
class _Walk:
    """What one frame is found to hold."""

    trace: Trace
    norms: Mapping[str, Norm]
    region: Region = field(default_factory=Region)
    uses: list[Stored] = field(default_factory=list)
    turns: dict[Turn, None] = field(default_factory=dict)
    passed: dict[str, None] = field(default_factory=dict)
    scales: dict[str, None] = field(default_factory=dict)
    reasons: dict[str, None] = field(default_factory=dict)

    def run(self, start: Node) -> None:
        """Reach everything from a norm's output on. start: the norm's node."""
        assert start.value is not None
        axes = self.region.axes
        queue = [(start, self.norms[start.module].axis % start.value.dim())]
        while queue:
            node, axis = queue.pop()
            if node in axes:
                if axes[node] != axis:
                    self.refuse(f"{_where(node)} mixes the stream's channels ({node.op})")
                continue
            axes[node] = axis
            if node.stale:
                self.refuse(f"{_where(node)} changes the stream in place ({node.op})")
            queue += self._back(node, axis)
            if not node.is_parameter:
                queue += self._forward(node, axis)
        self._border()

    def refuse(self, reason: str) -> None:
        """Note a reason against turning the frame."""
        self.reasons.setdefault(reason)

    def frame(self) -> Frame:
        """The frame that was walked."""
        axes = self.region.axes
        shown = tuple(name for name, node in self.trace.outputs.items() if node in axes)
        if shown and len(shown) == len(self.trace.outputs):
            self.refuse(f"output {shown[0]} is the stream itself, which would be rotated")
        norms = tuple(self.norms[name] for name in self.passed)
        centred = bool(self.region.offsets) or any(norm.kind == "LayerNorm" for norm in norms)
        part = common_module(list(self.passed))
        return Frame(
            part, tuple(self.turns), norms, tuple(self.scales), centred, shown, tuple(self.reasons)
        )

    def _back(self, node: Node, axis: int) -> list[tuple[Node, int]]:
        if node.op == NORM:
            norm = self.norms[node.module]
            self.passed.setdefault(node.module)
            if norm.bias_name:
                self._turn(Stored(norm.bias_name, 0, ()), writes=True)
            return [(node.parents[0], axis)]
        return step_back(node, axis, self.region)

    def _forward(self, node: Node, axis: int) -> list[tuple[Node, int]]:
        reached = []
        for consumer in node.consumers:
            position = self._passed(node, axis, consumer)
            if position is not None:
                reached.append((consumer, position))
            elif not self._read(node, axis, consumer):
                self.refuse(f"{_where(consumer)} reads the stream's channels ({consumer.op})")
        return reached

    def _passed(self, node: Node, axis: int, consumer: Node) -> int | None:
        if consumer.op != NORM:
            return passed_on(node, axis, consumer)
        norm = self.norms[consumer.module]
        assert node.value is not None
        same = norm.axis % node.value.dim() == axis
        return axis if same and norm.kind in _TURNING_NORMS else None

    def _read(self, node: Node, axis: int, consumer: Node) -> bool:
        """Note the stored weight with which `consumer` contracts the channels, if it does."""
        linear = as_linear(consumer)
        if linear is None or linear.argument is not node or linear.in_dim is None:
            return False
        assert node.value is not None
        channels = 1 if linear.kind == "convolution" else node.value.dim() - 1
        weight = stored(linear.weight, linear.in_dim, consumer)
        if linear.kind == "embedding" or axis != channels or weight is None:
            return False
        self._turn(weight, writes=False)
        return True

    def _turn(self, use: Stored, *, writes: bool) -> None:
        self.turns.setdefault(Turn(use.name, use.axis, writes))
        if use.path:
            self.uses.append(use)

    def _border(self) -> None:
        """The writers, and the reasons that what lies at the border gives."""
        for node in self.region.origins:
            found = writer_of(self.region, node)
            if found is None:
                if nonzero(node):
                    self.refuse(_describe(node))
                continue
            writer, uses = found
            for use in uses:
                if use.name == writer.scale:
                    self.scales.setdefault(use.name)
                    self.uses.append(use)
                else:
                    self._turn(use, writes=True)


def _where(node: Node) -> str:
    return node.module or "the model's forward"


def _describe(node: Node) -> str:
    if node.op in ("constant", "buffer"):
        return f"{_where(node)} adds a table that code computes"
    if node.op in ADDITIONS | SCALINGS | MOVES:
        return f"{_where(node)} changes the stream's channels one by one ({node.op})"
    return f"{_where(node)} writes the output of {node.op} to the stream"
