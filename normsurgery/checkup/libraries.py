"""Which libraries there are: versions from their metadata, and whether the needed ones import."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple


class Library(NamedTuple):
    """extra: the extra of ours that brings it, empty for what we cannot do without."""

    name: str
    extra: str = ""
    imported: bool = False


# The least releases that pyproject.toml asks for.
LEAST = {
    "torch": "2.5",
    "transformers": "5.0",
    "safetensors": "0.5",
    "accelerate": "1.2",
    "typer": "0.26",
    "rich": "13.7",
}
LIBRARIES = (
    *(Library(name, imported=True) for name in ("torch", "transformers", "safetensors")),
    Library("accelerate"),
    Library("typer"),
    Library("rich"),
    Library("huggingface_hub", imported=True),
    Library("tokenizers"),
    Library("datasets", "data"),
    Library("pyarrow", "data"),
    Library("matplotlib", "plots"),
    Library("peft", "train"),
    Library("pillow", "images"),
    Library("timm", "timm"),
    Library("lm-eval", "eval"),
    Library("gguf", "engines"),
    Library("xllamacpp", "engines"),
)
TORCHVISION = Library("torchvision", "timm", imported=True)


def library_document(library: Library) -> dict[str, Any]:
    """A library as the document has it; one that is broken is described, and never raises."""
    found = installed_version(library.name)
    tried = found is not None and library.imported
    return {
        "name": library.name,
        "version": found,
        "extra": library.extra or None,
        "error": import_error(library.name) if tried else None,
        "install": install_hint(library),
    }


def installed_version(name: str) -> str | None:
    """What its metadata say; None where it is not installed, or has none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def import_error(name: str) -> str | None:
    """What importing it raises, in one line; None where it imports."""
    try:
        import_module(name)
    except Exception as error:  # whatever a broken library raises
        first = (str(error).strip() or "no message").splitlines()[0]
        return f"{type(error).__name__}: {first}"
    return None


def install_hint(library: Library) -> str:
    """The line that installs it."""
    return f'pip install "normsurgery[{library.extra}]"' if library.extra else (
        f"pip install {library.name}"
    )  # fmt: skip
