"""Fold a processor's mean, standard deviation and rescaling of pixels into the first convolution.

Contract: exact. The model was given x = (p r − m)/s and is given p: W ← W diag(r/s),
b ← b − Σ W m/s (sum over input channels and taps), and preprocessor_config.json says
`do_normalize: false, rescale_factor: 1.0`, which stock processors honour.
Refuses a zero-padded convolution (its border would see another constant), one without a bias, a
picture that anything else reads, and a processor that pads, or shifts, after it normalizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.axes import child_axis
from normsurgery.anatomy.examine import Examination
from normsurgery.anatomy.linears import Linear, as_linear, stored
from normsurgery.anatomy.names import NameMap
from normsurgery.anatomy.push import trace_of
from normsurgery.anatomy.runtime import quiet
from normsurgery.anatomy.trace import Node
from normsurgery.checkpoint import Checkpoint
from normsurgery.checkpoint.files import read_small
from normsurgery.surgery.edits import plus_product, scaled_along, why_not_editable
from normsurgery.surgery.folds import FoldOptions, FoldPlan, Inputs, fold_receipt
from normsurgery.surgery.receipt import Receipt

PICTURE = "pixel_values"
_FILES = ("preprocessor_config.json", "processor_config.json")
_NESTED = "image_processor"  # where the second of them holds what the first does
_LIMIT = 1 << 20  # bytes of such a file
# Functions between the picture and the convolution that only move its pixels.
_MOVES = {
    "view", "reshape", "permute", "transpose", "flatten", "unflatten", "unsqueeze", "squeeze",
    "contiguous", "clone", "detach", "to", "type", "float", "double", "half", "bfloat16",
    "__getitem__", "select", "unbind", "split", "chunk",
}  # fmt: skip
_PADDING = 4  # the position of a convolution's argument padding
_OTHERWISE = {
    "do_pad": "pads with zeros after it normalizes",
    "do_flip_channel_order": "exchanges channels",
    "offset": "shifts pixels when it rescales",
}


class _RefusedError(Exception):
    """Why the fold does not apply."""


@dataclass(frozen=True)
class Pixels:
    """What a processor makes of pixels: (p · rescale − mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float

    @property
    def gain(self) -> Tensor:
        return self.rescale / torch.tensor(self.std, dtype=torch.float64)

    @property
    def shift(self) -> Tensor:
        return -torch.tensor(self.mean, dtype=torch.float64) / torch.tensor(
            self.std, dtype=torch.float64
        )


@dataclass(frozen=True)
class Stem:
    """A convolution that reads the picture. in_dim: of its weight; axis: the picture's channels."""

    weight: str
    bias: str
    in_dim: int
    axis: int


def plan_image_norm(
    checkpoint: Checkpoint, examination: Examination, options: FoldOptions
) -> FoldPlan | str:
    """The picture's normalization into the convolutions that read it, if nothing else does."""
    try:
        stems = _stems(examination)
        pixels = _pixels(checkpoint)
        reason = why_not_editable(examination.names, [s.weight for s in stems])
        channels = _channels(checkpoint, examination.names, stems[0])
        if channels != len(pixels.mean):
            reason = f"the processor speaks of {len(pixels.mean)} channels, the model of {channels}"
        if reason:
            return reason
    except _RefusedError as error:
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
    """The convolutions that read the picture. Raises _RefusedError where something else does."""
    picture = examination.twin.inputs.get(PICTURE)
    recorded = trace_of(examination.twin)
    start = next((n for n in recorded.nodes if picture is not None and n.value is picture), None)
    if start is None or picture is None or picture.dim() < 4:
        raise _RefusedError("it takes no pictures")
    reads = _reads(start, picture.dim() - 2)
    found = {
        stem.weight: stem
        for linear, axis, origin in reads
        if (stem := _stem(linear, axis, origin)) is not None
    }
    nodes = {linear.node for linear, _, _ in reads}
    if not found or len({stem.axis for stem in found.values()}) > 1:
        where = next((node.module for node in nodes), "nothing")
        raise _RefusedError(f"{where} reads it, and not as a plain convolution over its channels")
    for stem in found.values():
        if any(node not in nodes for node in recorded.parameters[stem.weight].consumers):
            raise _RefusedError(f"{stem.weight} is read elsewhere too")
    return list(found.values())


def _reads(start: Node, axes: int) -> list[tuple[Linear, int, int]]:
    """Every linear that reads the picture, with the axis there of each of its first `axes` axes,
    and that axis itself. Raises _RefusedError where something else reads it."""
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
                raise _RefusedError(f"{where} reads it with {consumer.op}")
            elif (position := child_axis(consumer, node, axis)) is not None:
                if (consumer, position) not in seen:
                    seen.add((consumer, position))
                    queue.append((consumer, position, origin))
    return found


def _stem(linear: Linear, axis: int, origin: int) -> Stem | None:
    """The convolution, if the picture's channels at `axis` are its input channels."""
    node, read, held = linear.node, linear.argument.value, linear.weight.value
    if linear.kind != "convolution" or linear.in_dim is None or read is None or held is None:
        return None
    if axis != read.dim() - held.dim() + 1:
        return None
    if _pads(node):
        raise _RefusedError(
            f"{node.module} pads with zeros, and its border would see another constant"
        )
    weight = stored(linear.weight, linear.in_dim, node)
    bias = stored(linear.bias, 0, node) if linear.bias is not None else None
    if weight is None:
        raise _RefusedError(f"{node.module} computes its weight when it runs")
    if bias is None:
        raise _RefusedError(f"{node.module} has no bias to take the mean")
    return Stem(weight.name, bias.name, weight.axis, origin)


def _pads(node: Node) -> bool:
    padding = node.args[_PADDING] if len(node.args) > _PADDING else node.kwargs.get("padding", 0)
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, (tuple, list)) else bool(padding)


def _channels(checkpoint: Checkpoint, names: NameMap, stem: Stem) -> int:
    name, part = names.on_disk(stem.weight)[0]
    return checkpoint[name].shape[part.axis(stem.in_dim)]


def _files(source: Checkpoint) -> dict[str, dict[str, Any]]:
    """The processor's files that speak of normalization, by name."""
    found = {}
    for name in _FILES:
        if name in source.extra_files:
            text = source.extra_files[name]
        elif name in source.side_files:
            text = read_small(source.directory / name, _LIMIT)
        else:
            continue
        try:
            values = json.loads(text)
        except ValueError:
            raise _RefusedError(f"{name} is not JSON") from None
        if isinstance(values, dict) and _part(values) is not None:
            found[name] = values
    return found


def _part(values: dict[str, Any]) -> dict[str, Any] | None:
    """The image processor's part of a processor's file."""
    nested = values.get(_NESTED)
    part = nested if isinstance(nested, dict) else values
    return part if {"image_mean", "do_normalize", "image_processor_type"} & set(part) else None


def _pixels(checkpoint: Checkpoint) -> Pixels:
    """What the processor does. Raises _RefusedError where it normalizes nothing, or does more."""
    files = _files(checkpoint)
    if not files:
        raise _RefusedError("the checkpoint has no image processor (preprocessor_config.json)")
    part = dict(_part(next(iter(files.values()))) or {})
    wanted = ("do_normalize", "image_mean", "image_std", "do_rescale", "rescale_factor")
    if any(part.get(key) is None for key in wanted):
        part = {**_defaults(checkpoint, wanted), **{k: v for k, v in part.items() if v is not None}}
    for key, what in _OTHERWISE.items():
        if part.get(key):
            raise _RefusedError(f"the image processor {what} ({key})")
    if not part["do_normalize"]:
        raise _RefusedError("the image processor does not normalize (do_normalize)")
    mean, std = (_numbers(part[key], key) for key in ("image_mean", "image_std"))
    if len(mean) != len(std) or not all(std):
        raise _RefusedError("image_mean and image_std of the image processor do not fit each other")
    rescale = float(part["rescale_factor"]) if part["do_rescale"] else 1.0
    if not rescale:
        raise _RefusedError("the image processor's rescale_factor is zero")
    return Pixels(mean, std, rescale)


def _defaults(checkpoint: Checkpoint, wanted: Sequence[str]) -> dict[str, Any]:
    """What the processor's class fills in."""
    from transformers import AutoImageProcessor

    try:
        with quiet():
            made = AutoImageProcessor.from_pretrained(checkpoint.directory)
        return {key: getattr(made, key) for key in wanted}
    except Exception as error:  # whatever its class raises, or lacks
        reason = " ".join(str(error).split())[:120]
        raise _RefusedError(f"the image processor cannot be opened: {reason}") from error


def _numbers(value: Any, key: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in value)
    except (TypeError, ValueError):
        raise _RefusedError(f"{key} of the image processor is {value!r}") from None


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
        if shifts:
            result = plus_product(
                result, names, stem.bias, stem.weight, lambda: pixels.shift, in_dim=stem.in_dim
            )
        result = scaled_along(result, names, stem.weight, lambda: pixels.gain, axis=stem.in_dim)
    files = {name: _without_normalization(values) for name, values in _files(source).items()}
    result = result.with_files(files)
    return fold_receipt("image-norm", source, result, len(stems))


def _without_normalization(values: Mapping[str, Any]) -> bytes:
    """A processor's file that hands on pixels as they are: still rescaled, by one, so that they
    come out as floating numbers."""
    changed = json.loads(json.dumps(values))
    part = _part(changed)
    assert part is not None
    part.update(do_normalize=False, do_rescale=True, rescale_factor=1.0)
    return (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()
