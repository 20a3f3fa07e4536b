"""The lines of Python that load a result, for the report and for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STOCK = "# in the source's own class, no custom code"
GRAFT = "# with RMSNorm for LayerNorm, by the modeling file beside the weights"


def loading_lines(target: Mapping[str, Any], where: str) -> list[str]:
    """Code that opens the result in every form that it has. where: a directory or a Hub id."""
    auto = target.get("auto_class") or "AutoModel"
    plain = f"{auto}.from_pretrained({where!r})"
    trusted = f"{auto}.from_pretrained({where!r}, trust_remote_code=True)"
    lines = [f"from transformers import {auto}"]
    if target["form"] != "graft":
        lines += [STOCK, f"model = {plain}"] if target["form"] == "stock" else [f"model = {plain}"]
    if target["form"] != "native" and target.get("modeling_file", True):
        lines += [GRAFT, f"model = {trusted}"]
    return lines
