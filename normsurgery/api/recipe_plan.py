"""What a dry run says of a whole recipe: how often it goes over the disk, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

_WIDTHS = {
    "F64": 8,
    "F32": 4,
    "BF16": 2,
    "F16": 2,
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
}


def whole_plan(rows: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> dict[str, Any]:
    """Of all steps. rows: each with `pass` and `options`; document: the plan of the first pass.

    disk_needed: bytes at the peak, where the result of a pass lies beside the one that it was made
    of. A later result is taken to be as large as what it is made of, but for its storage dtype:
    blocks that it drops or repeats are not counted, nor what training saves on the way.
    """
    width = _WIDTHS.get(str(document["source"]["dtype"]).split(",")[0], 0)
    sizes: list[int] = []
    for _, group in groupby(rows, key=lambda row: row["pass"]):
        asked = [row["options"].get("dtype") for row in group]
        narrowed = next((_WIDTHS[name] for name in reversed(asked) if name in _WIDTHS), width)
        size = sizes[-1] if sizes else document["plan"]["bytes"]
        scale = narrowed / width if sizes and width else 1.0  # the first size is known
        sizes.append(round(size * scale))
        width = narrowed
    return {
        "passes": len(sizes),
        "disk_needed": max([sizes[0], *(a + b for a, b in pairwise(sizes))]),
        "disk_free": document["plan"]["disk_free"],
        "output": rows[-1]["output"],
    }
