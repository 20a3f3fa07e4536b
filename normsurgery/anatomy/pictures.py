"""The sizes of a twin's pictures and films."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A picture at several scales, cut into patches that are pictures to the towers.
_SCALES, TWIN_CUT = "scaled_images_ratios", 64
TWIN_SIDE = 128


def shrink_pictures(tiny: dict[str, Any]) -> None:
    """Four patches a side (or 64 pixels), the sides' proportion kept; two steps of a film."""
    steps, patch = _patch(tiny)
    if _SCALES in tiny and isinstance(patch, int):
        tiny["patch_size"] = patch = min(patch, TWIN_CUT)
    for key in ("num_frames", "frames_per_clip"):
        if isinstance(tiny.get(key), int):
            tiny[key] = min(tiny[key], max(2, 2 * steps))
    if not isinstance(patch, int) or not patch:
        _cap_sides(tiny)
        return
    goal = patch * max(4, 64 // patch)
    for key in ("image_size", "crop_size"):
        size = tiny.get(key)
        if isinstance(size, int):
            tiny[key] = min(size, goal)
        elif isinstance(size, list) and size and min(size) > goal:
            tiny[key] = [patch * (side * goal // min(size) // patch) for side in size]


def _cap_sides(tiny: dict[str, Any]) -> None:
    """A picture that is not cut into patches: no weight depends on its size."""
    size = tiny.get("image_size")
    if isinstance(size, int):
        tiny["image_size"] = min(size, TWIN_SIDE)
    elif isinstance(size, list) and all(isinstance(side, int) for side in size):
        tiny["image_size"] = [min(side, TWIN_SIDE) for side in size]


def _patch(tiny: Mapping[str, Any]) -> tuple[int, Any]:
    """The frames that a patch spans, and the pixels from one to the next."""
    tubelet, patch = tiny.get("tubelet_size"), tiny.get("patch_size")
    steps = tubelet if isinstance(tubelet, int) else 1
    if isinstance(tubelet, list):
        steps, patch = tubelet[0], tubelet[-1]
    if patch is not None:  # overlapping patches: as many as steps
        patch = tiny.get("patch_stride", patch)
    return steps, patch[-1] if isinstance(patch, list) else patch
