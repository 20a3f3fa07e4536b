"""Versions, read from installed metadata: nothing is imported to learn its version."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from normsurgery import __version__

_LIBRARIES = ("torch", "transformers", "safetensors", "tokenizers", "huggingface_hub", "accelerate")


def versions() -> str:
    """One line a program: ours, Python's, then the libraries'."""
    lines = [f"normsurgery {__version__}", f"python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} not installed")
    return "\n".join(lines)
