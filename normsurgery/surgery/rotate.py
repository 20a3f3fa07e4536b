"""Rotate a residual stream by an orthogonal matrix Q (R1), and every value head by another (R2).

Contract: exact. With γ folded, |Q x| = |x| makes a norm of Q x the rotated norm of x. Writers
W ← Q W, b ← Q b; embedding rows e ← Q e; readers W ← W Qᵀ. A LayerNorm also centres: it commutes
with a Q that keeps the all-ones vector. Outliers of a few channels are spread over all of them,
which is what quantization wants. Sources: QuaRot, arXiv 2404.00456; SpinQuant, arXiv 2405.16406.
Refuses: gains that could not be folded, a stream that something other than a stored linear reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial

from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.frames import Frame, Turn, read_frames
from normsurgery.anatomy.model import NormSite
from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint, LazyTensor
from normsurgery.errors import SurgeryError, UnsupportedModelError
from normsurgery.surgery.centre import checked_float
from normsurgery.surgery.fold_gain import fold_gains, why_no_gain_folds
from normsurgery.surgery.fold_norm import why_not_foldable
from normsurgery.surgery.folds import FoldOptions, FoldPlan, Step
from normsurgery.surgery.orthogonal import Kind, Rotation, Spin, rotation, spun
from normsurgery.surgery.receipt import Receipt, receipt_of
from normsurgery.surgery.rotate_heads import HeadSite, Pieces, pieces_of, read_head_sites

_NAME = "rotate"
_HEAD_SEED = 1  # added to the seed, so that R2 is not R1 where the widths agree
Spins = dict[str, list[Spin]]  # name on disk → rotations of its axes


def plan_rotate(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """Rotate every stream whose surroundings are stored linears and norms without a gain.

    With an untied head the examination is that of the untied checkpoint.
    """
    frames = read_frames(examination.twin, examination.anatomy)
    if not frames:
        return "no norm reads a residual stream"
    looks = [_look(frame, checkpoint, examination, options.what) for frame in frames]
    chosen = [look.frame for look in looks if not look.why_not]
    if not chosen:
        return looks[0].why_not
    left = {look.frame.part or "the model": look.why_not for look in looks if look.why_not}
    gains = [site for look in looks if not look.why_not for site in look.gains]
    heads, plain = _head_sites(checkpoint, examination)
    turning = _Turning(
        examination, tuple(chosen), tuple(gains), tuple(heads), options.rotation, options.seed
    )
    shown = tuple(dict.fromkeys(name for frame in chosen for name in frame.shown))
    turned = {turn.parameter for frame in chosen for turn in frame.turns}
    return FoldPlan(
        _NAME, turning.step, len(turned), left=left | plain, without=shown,
        notes=tuple(_notes(checkpoint, examination.names, turning, shown)),
        wrong=_wrong(turning),
    )  # fmt: skip


# -- whether it applies -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """A frame, why it cannot be rotated (or ""), and sites whose γ folds here, since β stays."""

    frame: Frame
    why_not: str
    gains: tuple[NormSite, ...] = ()


def _look(
    frame: Frame, checkpoint: Checkpoint, examination: Examination, what: Collection[str]
) -> _Look:
    """Whether a frame can be rotated. what: all folds that run together."""
    if frame.why_not:
        return _Look(frame, frame.why_not[0])
    names = examination.names
    gains: list[NormSite] = []
    tied: list[str] = []
    weighted = [norm for norm in frame.norms if norm.weight]
    for norm in weighted:
        site = examination.anatomy.sites[norm.name]
        if why_not_foldable(site, names) is None:
            continue
        reason = why_no_gain_folds(checkpoint, site, names)
        if reason is None:
            gains.append(site)
        elif not _tied(frame) & {reader.weight for reader in site.readers}:
            return _Look(frame, f"γ of {site.name} cannot be folded: {reason}")
        else:  # said last: it is all that --untie helps against
            tied.append(
                f"{next(iter(_tied(frame)))} is embedding and head in one, so γ of {site.name} "
                "cannot be folded into it: give the head a table of its own with --untie"
            )
    if tied:
        return _Look(frame, tied[0])
    if weighted and "norm" not in what:
        reason = f"{weighted[0].name} has a gain, which must be folded first: --what norm,rotate"
        return _Look(frame, reason)
    if frame.scales and "layerscale" not in what:
        reason = f"{frame.scales[0]} must be folded first: --what layerscale,norm,rotate"
        return _Look(frame, reason)
    return _Look(frame, "", tuple(gains))


def _tied(frame: Frame) -> set[str]:
    """Tables that the stream is written with and read with."""
    written = {turn.parameter for turn in frame.turns if turn.writes}
    return {turn.parameter for turn in frame.turns if not turn.writes} & written


def _head_sites(
    checkpoint: Checkpoint, examination: Examination
) -> tuple[list[HeadSite], dict[str, str]]:
    """Attentions whose heads lie plainly in the real files too, and why others do not."""
    sites, left = read_head_sites(examination)
    config = examination.config.to_dict()
    kept = []
    for site in sites:
        found = pieces_of(checkpoint, examination.names, site, config)
        if isinstance(found, str):
            left[site.name] = found
        else:
            kept.append(site)
    return kept, left


def _notes(
    checkpoint: Checkpoint, names: NameMap, turning: _Turning, shown: Collection[str]
) -> Iterable[str]:
    seen = [*shown, "hidden_states where they are asked for"]
    yield f"not guaranteed: {', '.join(seen)}: they show the rotated stream"
    yield "adapters, steering vectors and probes made for the source do not fit the rotated stream"
    for frame in turning.frames:
        width = _width(checkpoint, names, frame)
        kind = rotation(turning.kind, width, 0).kind
        if kind != turning.kind:
            yield f"no Hadamard matrix of order {width} is known: a {kind} rotation instead"
        if frame.keeps_ones:
            yield (
                f"the rotation of {frame.part or 'the model'} keeps the all-ones vector, since a "
                "LayerNorm subtracts the mean"
            )
    if turning.gains:
        some = ", ".join(site.name for site in turning.gains[:3])
        yield f"γ of {some} is folded and β divided by it, as the readers have no bias to take β"
    if not turning.heads:
        yield "no value heads are rotated"


# -- the step -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Turning:
    """The rotation, ready for the twin's files and the real ones alike.

    gains: sites whose γ is folded here, since their β stays.
    """

    examination: Examination
    frames: tuple[Frame, ...]
    gains: tuple[NormSite, ...]
    heads: tuple[HeadSite, ...]
    kind: Kind
    seed: int

    def step(
        self, source: Checkpoint, *, without: Collection[tuple[str, int]] = ()
    ) -> tuple[Checkpoint, Receipt]:
        """Rotate. without: (parameter, axis) that are left out, which makes the result wrong."""
        names = self.examination.names
        given, source = source, fold_gains(source, names, self.gains)
        spins: Spins = {}
        streams = []
        for frame in self.frames:
            stream = self._rotation(source, frame)
            streams.append({"part": frame.part, "blocks": self._blocks(frame), **stream.to_dict()})
            for turn in frame.turns:
                if (turn.parameter, turn.axis) not in without:
                    _add(spins, source, names, turn.parameter, Spin(stream, turn.axis), frame.turns)
        rotations = self._rotate_heads(source, spins, without)
        edits = {name: _spun(source, name, found) for name, found in spins.items()}
        result = source.override(edits)
        parameters = {
            "rotation": self.kind,
            "seed": self.seed,
            "streams": streams,
            "heads": [one.to_dict() for one in rotations],
            "attentions": len(self.heads),
        }
        changed = [name for name in result if result[name] is not given[name]]
        return result, receipt_of(_NAME, given, result, changed=changed, parameters=parameters)

    def _blocks(self, frame: Frame) -> list[str]:
        """The lists of repeated layers that the frame's stream passes."""
        lists = self.examination.anatomy.blocks
        names = [norm.name for norm in frame.norms]
        return [one.name for one in lists if any(n.startswith(f"{one.name}.") for n in names)]

    def _rotation(self, source: Checkpoint, frame: Frame) -> Rotation:
        width = _width(source, self.examination.names, frame)
        return rotation(self.kind, width, self.seed, keeps_ones=frame.keeps_ones)

    def _rotate_heads(
        self, source: Checkpoint, spins: Spins, without: Collection[tuple[str, int]]
    ) -> list[Rotation]:
        names = self.examination.names
        config = type(self.examination.config).from_dict(dict(source.config)).to_dict()
        made: dict[Rotation, None] = {}
        for site in self.heads:
            found = pieces_of(source, names, site, config)
            if not isinstance(found, Pieces):
                raise SurgeryError(f"internal error: {site.name}: {found}")
            turn = rotation(self.kind, found.width, self.seed + _HEAD_SEED)
            made.setdefault(turn)
            for parameter, axis, starts in (
                (site.values, site.values_axis, found.values),
                (site.bias, 0, found.values),
                (site.output, site.output_axis, found.output),
            ):
                if parameter is not None and (parameter, axis) not in without:
                    _add(spins, source, names, parameter, Spin(turn, axis, starts))
        return list(made)


def _wrong(turning: _Turning) -> dict[str, Step]:
    """The rotation with something forgotten."""
    turns = turning.frames[0].turns
    tied = _tied(turning.frames[0])
    matrices = [turn for turn in turns if turn.parameter.endswith("weight")] or list(turns)
    writers = [turn for turn in matrices if turn.writes and turn.parameter not in tied]
    readers = [turn for turn in matrices if not turn.writes]
    forgotten = {"a writer unrotated": writers[-1:], "a reader unrotated": readers[:1]}
    wrong: dict[str, Step] = {
        how: partial(turning.step, without={(turn.parameter, turn.axis) for turn in some})
        for how, some in forgotten.items()
        if some
    }
    if turning.heads:
        site = turning.heads[0]
        wrong["an output projection not rotated back"] = partial(
            turning.step, without={(site.output, site.output_axis)}
        )
    return wrong


def _width(source: Checkpoint, names: NameMap, frame: Frame) -> int:
    """The stream's width in a checkpoint. Raises SurgeryError where its tensors disagree."""
    widths = set()
    for turn in frame.turns:
        joint = names.joint(turn.parameter)
        if joint:
            widths.add(source[joint].shape[turn.axis] if turn.axis else None)
            continue
        name, part = names.on_disk(turn.parameter)[0]
        if not part.cuts_along(turn.axis):
            widths.add(source[name].shape[part.axis(turn.axis)])
    widths.discard(None)
    if len(widths) != 1:
        raise SurgeryError(
            f"internal error: the stream of {frame.part or 'the model'} has widths {widths}",
            "please report the model id",
        )
    width = widths.pop()
    assert width is not None
    return width


def _add(
    spins: Spins,
    source: Checkpoint,
    names: NameMap,
    parameter: str,
    spin: Spin,
    turns: Collection[Turn] = (),
) -> None:
    """Note a rotation under every name on disk that holds the parameter."""
    joint = names.joint(parameter)
    if joint:
        axes = {(turn.parameter, turn.axis) for turn in turns}
        if not spin.axis or any((held, spin.axis) not in axes for held in names.joins[joint]):
            raise UnsupportedModelError(f"{parameter} is only a piece of {joint} on disk")
        places = [(joint, spin.axis)]
    else:
        places = []
        for name, part in names.on_disk(parameter):
            if part.cuts_along(spin.axis):
                raise UnsupportedModelError(
                    f"{name} holds only some of the channels of {parameter}",
                    "normsurgery inspect MODEL   # what does apply",
                )
            places.append((name, part.axis(spin.axis)))
    for name, axis in places:
        turned = Spin(spin.rotation, axis, spin.starts)
        if turned not in spins.setdefault(name, []):  # a tied table is reached twice
            spins[name].append(turned)


def _spun(source: Checkpoint, name: str, spins: list[Spin]) -> LazyTensor:
    """The tensor rotated; streamed row by row where no rotation mixes its rows."""
    by_rows = all(spin.axis > 0 for spin in spins)
    return checked_float(source, name).map(partial(spun, spins=tuple(spins)), by_rows=by_rows)
