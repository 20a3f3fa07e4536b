"""What came from outside, made safe to show on a terminal or to write as JSON."""

from __future__ import annotations

import math
from typing import Any


def printable(text: str) -> str:
    """Control characters and lone surrogates as escapes; a tensor's name may hold any of them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def json_safe(value: Any) -> Any:
    """A document with null for figures that JSON cannot hold, and text for anything not JSON's."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
