"""Widths that a shrunken configuration must keep equal: of a block, of its parts, of its siblings.

A model's parts meet where one's output width is another's input width, and each names that width
with a key of its own. What was the hidden width of a stack before is its new hidden width after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_WIDTH = ("hidden", "embed", "channel", "dim", "feature", "d_model", "width")
_NO_WIDTH = ("num_", "max_", "position", "head", "layers", "rope", "rotary", "patch_", "_ratio")
# Parts of a width: LayoutLMv3's 4 coordinates and 2 sides, SAM's sines and cosines.
_SHARES = {"coordinate_size": 6, "shape_size": 6, "num_pos_feats": 2}
_PROJECTION = "projection_dim"
_OUT = "out_hidden_size"
_PICTURES = ("image_size", "image_embedding_size", "backbone_feature_sizes")


def agree(before: Mapping[str, Any], tiny: dict[str, Any], stems: Sequence[str]) -> None:
    """Change in `tiny` every width that equalled a shrunken hidden width in `before`.

    stems: the keys that hidden widths go by. Nested configurations count as parts of one model;
    a width that two of them shrank differently is left alone, save in those two.
    """
    moved: dict[int, set[int]] = {}
    for old, new in _configurations(before, tiny):
        for size, small in _moves(old, new, stems).items():
            moved.setdefault(size, set()).add(small)
    common: dict[int, int] = {}
    for size, sizes in moved.items():
        changed = sizes - {size} or sizes  # a part without heads was not shrunk: it follows
        if len(changed) == 1:
            common[size] = next(iter(changed))
    for old, new in _configurations(before, tiny):
        own = _moves(old, new, stems)
        _follow(old, new, {**common, **{size: own[size] for size in own if own[size] != size}})
        if new is not tiny and _PROJECTION not in before and old.get(_PROJECTION) in common:
            new[_PROJECTION] = common[old[_PROJECTION]]  # a tower that projects into the text
        if _OUT in new and "text_config" in tiny:  # whatever it was, the text takes it in
            new[_OUT] = tiny["text_config"].get("hidden_size", new[_OUT])


def _configurations(
    before: Mapping[str, Any], tiny: dict[str, Any]
) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """A configuration and those nested in it: as they were, and as they are."""
    yield before, tiny
    for key, value in before.items():
        if isinstance(value, Mapping) and isinstance(tiny.get(key), dict):
            yield from _configurations(value, tiny[key])


def _moves(old: Mapping[str, Any], new: Mapping[str, Any], stems: Sequence[str]) -> dict[int, int]:
    """Hidden widths of this configuration: before → after."""
    return {
        old[key]: new[key] for key in stems
        if type(old.get(key)) is int and type(new.get(key)) is int and old[key] > 0
    }  # fmt: skip


def _follow(old: Mapping[str, Any], new: dict[str, Any], moved: Mapping[int, int]) -> None:
    if "stage_out_channels" in old:  # HGNet: its lists depend on each other
        return
    for key, value in old.items():
        if new.get(key) != value:
            continue
        if isinstance(value, list | tuple) and value and all(type(item) is int for item in value):
            new[key] = _follow_list(key, list(value), moved)
        elif type(value) is int and value in moved and _names_width(key):
            new[key] = moved[value]
        elif key in _SHARES and _SHARES[key] * value in moved:
            new[key] = moved[_SHARES[key] * value] // _SHARES[key]


def _names_width(key: str) -> bool:
    return any(word in key for word in _WIDTH) and not any(word in key for word in _NO_WIDTH)


def _follow_list(key: str, sizes: list[int], moved: Mapping[int, int]) -> list[int]:
    """Widths of several stages are divided alike; shares of one width still make it up."""
    if not _names_width(key) and "dim" not in key:
        return sizes
    for old, new in moved.items():
        if old == new:
            continue
        if len(sizes) > 1 and sum(sizes) == old:
            shares = [size * new // old for size in sizes[:-1]]
            return [*shares, new - sum(shares)]
        factor = old // new if old % new == 0 else 0
        if factor and old in sizes and all(size % factor == 0 for size in sizes):
            return [size // factor for size in sizes]
    return sizes


def divide_pictures(tiny: dict[str, Any], divisor: int, above: int) -> None:
    """Divide the side of the picture and of its maps of features, where one is above `above`."""
    if max(_picture_sides(tiny), default=0) > above:
        _divide(tiny, divisor)


def _picture_sides(tiny: Mapping[str, Any]) -> Iterator[int]:
    for key, value in tiny.items():
        if isinstance(value, Mapping):
            yield from _picture_sides(value)
        elif key == "image_size":
            yield from [value] if isinstance(value, int) else value or []


def _divide(tiny: dict[str, Any], divisor: int) -> None:
    for key, value in tiny.items():
        if isinstance(value, dict):
            _divide(value, divisor)
        elif key in _PICTURES:
            tiny[key] = _divided(value, divisor)


def _divided(size: Any, divisor: int) -> Any:
    if isinstance(size, list | tuple):
        return [_divided(item, divisor) for item in size]
    return size // divisor if isinstance(size, int) else size
