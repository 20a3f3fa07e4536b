"""The lines of Python that load a result, for the report and for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STOCK = "# in the source's own class, no custom code"
GRAFT = "# with RMSNorm for LayerNorm, by the modeling file beside the weights"
OTHER_GRAFT = "# by the modeling file beside the weights"


def custom_code(document: Mapping[str, Any]) -> bool:
    """Whether a modeling file of ours travels with the result.

    The target says so in `modeling_file`; where it does not, a stock result has one if norms were
    swapped: it is the second way in.
    """
    stated = document["target"].get("modeling_file")
    if stated is not None:
        return bool(stated)
    form = document["target"]["form"]
    return form == "graft" or (form == "stock" and _swaps_norms(document))


def _swaps_norms(document: Mapping[str, Any]) -> bool:
    return any(receipt.get("norms") for receipt in document["receipts"])


def loading_lines(document: Mapping[str, Any], where: str) -> list[str]:
    """Code that opens the result in every form that it has. where: a directory or a Hub id."""
    target = document["target"]
    auto = target.get("auto_class") or "AutoModel"
    plain = f"{auto}.from_pretrained({where!r})"
    trusted = f"{auto}.from_pretrained({where!r}, trust_remote_code=True)"
    lines = [f"from transformers import {auto}"]
    if target["form"] != "graft":
        lines += [STOCK, f"model = {plain}"] if target["form"] == "stock" else [f"model = {plain}"]
    if custom_code(document):
        lines += [GRAFT if _gains_rmsnorms(document) else OTHER_GRAFT, f"model = {trusted}"]
    return lines


def _gains_rmsnorms(document: Mapping[str, Any]) -> bool:
    """Whether a step put RMSNorms where others were."""
    for receipt in document["receipts"]:
        norms = receipt.get("norms") or {}
        before, after = (norms.get(side) or {} for side in ("before", "after"))
        if any(after[kind] > before.get(kind, 0) for kind in after if kind.endswith("RMSNorm")):
            return True
    return False
