"""Fold a processor's mean, standard deviation and rescaling of pixels into the first convolution.

Contract: exact. The model was given x = (p r − m)/s and is given p: W ← W diag(r/s),
b ← b − Σ W m/s (sum over input channels and taps), and preprocessor_config.json says
`do_normalize: false, rescale_factor: 1.0`, which stock processors honour.
Without a bias the constant goes into the table of positions that is added to the convolution.
Refuses a zero-padded convolution (its border would see another constant), one with neither, a
picture that anything else reads, and a processor that pads, or shifts, after it normalizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from normsurgery.anatomy.axes import child_axis
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.linears import Linear, as_linear, stored
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.position_tables import PositionTable, position_table
from normsurgery.anatomy.push import trace_of
from normsurgery.anatomy.trace import Node, Trace
from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.edits import (
    plus_product,
    plus_product_in_rows,
    scaled_along,
    why_not_editable,
)
from normsurgery.surgery.folds import FoldOptions, FoldPlan, Inputs, fold_receipt
from normsurgery.surgery.image_processor import (
    Pixels,
    RefusedError,
    pixels_of,
    processor_files,
    without_normalization,
)
from normsurgery.surgery.receipt import Receipt

PICTURE = "pixel_values"
# Functions between the picture and the convolution that only move its pixels.
_MOVES = {
    "view", "reshape", "permute", "transpose", "flatten", "unflatten", "unsqueeze", "squeeze",
    "contiguous", "clone", "detach", "to", "type", "float", "double", "half", "bfloat16",
    "__getitem__", "select", "unbind", "split", "chunk",
}  # fmt: skip
_PADDING = 4  # the position of a convolution's argument padding


@dataclass(frozen=True)
class Stem:
    """A convolution that reads the picture. in_dim: of its weight; axis: the picture's channels.

    The mean goes into its bias, or else into the table of positions that is added to its output.
    """

    weight: str
    bias: str | None
    table: PositionTable | None
    in_dim: int
    axis: int


def plan_image_norm(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """The picture's normalization into the convolutions that read it, if nothing else does."""
    try:
        stems = _stems(examination)
        pixels = pixels_of(checkpoint)
        reason = why_not_editable(
            examination.names,
            [n for s in stems for n in (s.weight, s.bias, s.table.name if s.table else None)],
        )
        channels = _channels(checkpoint, examination.names, stems[0])
        if channels != len(pixels.mean):
            reason = f"the processor speaks of {len(pixels.mean)} channels, the model of {channels}"
        if reason:
            return reason
    except RefusedError as error:
        return str(error)
    step = partial(_folded, names=examination.names, stems=stems, pixels=pixels)
    return FoldPlan(
        "image-norm", step, len(stems),
        notes=(
            "the model takes raw pixels now, and its image processor gives them: data that was "
            "normalized elsewhere does not fit, and a picture that the model pads itself, as its "
            "size is no multiple of a patch's, is padded with black",
        ),
        wrong={"the mean is lost": partial(step, shifts=False)},
        inputs=partial(_raw, pixels=pixels, axis=stems[0].axis),
    )  # fmt: skip


def _stems(examination: Examination) -> list[Stem]:
    """The convolutions that read the picture. Raises RefusedError where something else does."""
    picture = examination.twin.inputs.get(PICTURE)
    recorded = trace_of(examination.twin)
    start = next((n for n in recorded.nodes if picture is not None and n.value is picture), None)
    if start is None or picture is None or picture.dim() < 4:
        raise RefusedError("it takes no pictures")
    reads = _reads(start, picture.dim() - 2)
    found = {
        stem.weight: stem
        for linear, axis, origin in reads
        if (stem := _stem(recorded, linear, axis, origin)) is not None
    }
    nodes = {linear.node for linear, _, _ in reads}
    if not found or len({stem.axis for stem in found.values()}) > 1:
        where = next((node.module for node in nodes), "nothing")
        raise RefusedError(f"{where} reads it, and not as a plain convolution over its channels")
    for stem in found.values():
        if any(node not in nodes for node in recorded.parameters[stem.weight].consumers):
            raise RefusedError(f"{stem.weight} is read elsewhere too")
    return list(found.values())


def _reads(start: Node, axes: int) -> list[tuple[Linear, int, int]]:
    """Every linear that reads the picture, with the axis there of each of its first `axes` axes,
    and that axis itself. Raises RefusedError where something else reads it."""
    found = []
    queue = [(start, axis, axis) for axis in range(axes)]
    seen: set[tuple[Node, int]] = set()
    while queue:
        node, axis, origin = queue.pop()
        for consumer in node.consumers:
            linear = as_linear(consumer)
            if linear is not None and linear.argument is node:
                found.append((linear, axis, origin))
            elif consumer.op not in _MOVES:
                where = consumer.module or "the model"
                raise RefusedError(f"{where} reads it with {consumer.op}")
            elif (position := child_axis(consumer, node, axis)) is not None:
                if (consumer, position) not in seen:
                    seen.add((consumer, position))
                    queue.append((consumer, position, origin))
    return found


def _stem(recorded: Trace, linear: Linear, axis: int, origin: int) -> Stem | None:
    """The convolution, if the picture's channels at `axis` are its input channels."""
    node, read, held = linear.node, linear.argument.value, linear.weight.value
    if linear.kind != "convolution" or linear.in_dim is None or read is None or held is None:
        return None
    if axis != read.dim() - held.dim() + 1:
        return None
    if _pads(node):
        raise RefusedError(
            f"{node.module} pads with zeros, and its border would see another constant"
        )
    weight = stored(linear.weight, linear.in_dim, node)
    bias = stored(linear.bias, 0, node) if linear.bias is not None else None
    if weight is None:
        raise RefusedError(f"{node.module} computes its weight when it runs")
    table = position_table(recorded, node) if bias is None else None
    if bias is None and table is None:
        raise RefusedError(f"{node.module} has no bias to take the mean, and no positions after it")
    return Stem(weight.name, bias.name if bias else None, table, weight.axis, origin)


def _pads(node: Node) -> bool:
    padding = node.args[_PADDING] if len(node.args) > _PADDING else node.kwargs.get("padding", 0)
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, (tuple, list)) else bool(padding)


def _channels(checkpoint: Checkpoint, names: NameMap, stem: Stem) -> int:
    name, part = names.on_disk(stem.weight)[0]
    return checkpoint[name].shape[part.axis(stem.in_dim)]


def _raw(inputs: Inputs, *, pixels: Pixels, axis: int) -> dict[str, Tensor]:
    """The pixels from which the processor made these inputs."""
    made = dict(inputs)
    picture = made.get(PICTURE)
    if picture is not None:
        view = [1] * picture.dim()
        view[axis] = -1
        wide = (picture.double() - pixels.shift.view(view)) / pixels.gain.view(view)
        made[PICTURE] = wide.to(picture.dtype)
    return made


def _folded(
    source: Checkpoint,
    names: NameMap,
    stems: Sequence[Stem],
    pixels: Pixels,
    *,
    shifts: bool = True,
) -> tuple[Checkpoint, Receipt]:
    """shifts: whether the bias takes the mean."""
    result = source
    for stem in stems:
        if shifts and stem.bias:
            result = plus_product(
                result, names, stem.bias, stem.weight, lambda: pixels.shift, in_dim=stem.in_dim
            )
        elif shifts and stem.table:
            result = plus_product_in_rows(
                result, names, stem.table.name, stem.weight, lambda: pixels.shift,
                in_dim=stem.in_dim, first=stem.table.first,
            )  # fmt: skip
        result = scaled_along(result, names, stem.weight, lambda: pixels.gain, axis=stem.in_dim)
    files = {
        name: without_normalization(values) for name, values in processor_files(source).items()
    }
    result = result.with_files(files)
    return fold_receipt("image-norm", source, result, len(stems))
