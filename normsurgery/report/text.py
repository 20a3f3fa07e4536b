"""Text that came from outside, made safe to show on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Control characters and lone surrogates as escapes; a tensor's name may hold any of them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
