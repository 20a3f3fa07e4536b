"""Which Python class a checkpoint asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normsurgery.errors import UnsupportedModelError


def named_class(
    directory: Path, config: Mapping[str, Any], *, trust_remote_code: bool = False
) -> type | None:
    """The class that config.json (as JSON values) names; None where it names none that exists.

    A checkpoint of timm names none of transformers', and opens in its wrapper of timm's models.
    The checkpoint's own code where that is trusted, through transformers' loader and without
    registering it: `AutoModel.from_pretrained(trust_remote_code=True)` would hand the class to
    every later load of that model type in this process. Else the class in transformers.
    Raises UnsupportedModelError where only code that is not trusted has the class.
    """
    import transformers

    name = _timm_wrapper(config) or str((config.get("architectures") or [None])[0])
    auto_map = config.get("auto_map") or {}
    references = [
        reference
        for auto, reference in auto_map.items()
        if auto.startswith("AutoModel") and isinstance(reference, str)
    ]
    if trust_remote_code and references:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        chosen = next((ref for ref in references if ref.split(".")[-1] == name), references[0])
        found: type = get_class_from_dynamic_module(chosen, str(directory), local_files_only=True)
        return found
    stock: type | None = getattr(transformers, name, None)
    if stock is None and references:
        raise untrusted_code(directory, name)
    return stock


def _timm_wrapper(config: Mapping[str, Any]) -> str | None:
    """The class of transformers for a checkpoint in timm's own form; None for every other.

    timm writes `architecture`, and `num_classes` where the model classifies.
    """
    if config.get("architectures") or not isinstance(config.get("architecture"), str):
        return None
    if "pretrained_cfg" not in config and "num_classes" not in config:
        return None
    return "TimmWrapperForImageClassification" if config.get("num_classes") else "TimmWrapperModel"


def untrusted_code(directory: Path, name: str) -> UnsupportedModelError:
    """The refusal of a checkpoint whose class is in files beside it; it names them."""
    files = ", ".join(sorted(file.name for file in directory.glob("*.py"))) or "another repository"
    return UnsupportedModelError(
        f"the code of {name} is not in transformers but in the checkpoint: {files}",
        "read these files, then pass --trust-remote-code to run them",
    )
