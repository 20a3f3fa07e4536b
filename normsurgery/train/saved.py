"""Whether the saved files are the model that was trained."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normsurgery.anatomy.names import NameMap
from normsurgery.checkpoint import Checkpoint
from normsurgery.surgery.set_parameters import FLOATING
from normsurgery.verify.load import load_model
from normsurgery.verify.run import exact_arithmetic
from normsurgery.verify.sources import ModelSource

# The same float32 arithmetic on the same values; what is left is the order of sums.
ALLOWED = 1e-5
# Where norms are folded into their readers the products differ in the last digit, block by block.
FOLDED = 1e-4
NOISES = 3.0  # a fold and then a rounding, against the rounding alone


def saved_check(
    trained: Any,
    changed: Collection[str],
    result: Checkpoint,
    names: NameMap,
    saved: ModelSource,
    ids: Tensor,
) -> dict[str, Any]:
    """Logits of the saved files against those of the trained model, both in float32.

    trained: the model in memory; its parameters `changed` are rounded to what `result` stores them
    in, so that it must not be used afterwards. ids: [rows, time].
    "error": the largest difference once both are rounded, "rounding": what the rounding itself
    moved; both over the logits' standard deviation.
    """
    device = next(trained.parameters()).device
    before = _logits(trained, ids, device)
    _round(trained, changed, result, names)
    wanted = _logits(trained, ids, device)
    with tempfile.TemporaryDirectory() as scratch:
        opened = load_model(saved, dtype=torch.float32, device=device, scratch=Path(scratch))
        with opened as loaded:
            found = _logits(loaded.model, ids, device)
            report = loaded.report
    spread = float(wanted.std())
    error = float((found - wanted).abs().max()) / spread
    passed = report.clean and error <= ALLOWED
    return {
        "passed": passed,
        "error": error,
        "allowed": ALLOWED,
        "rounding": float((wanted - before).abs().max()) / spread,
        "load_report": report.to_dict(),
    }


def folded_check(
    trained: Any,
    changed: Collection[str],
    result: Checkpoint,
    names: NameMap,
    saved: ModelSource,
    ids: Tensor,
    *,
    bound: float = 0.0,
) -> dict[str, Any]:
    """As `saved_check`, where the trained values were folded into others before they were rounded.

    "error" is the saved files' difference from the trained model as it trained; "allowed" is
    FOLDED + NOISES × ("rounding" + "noise") + bound. "rounding": what it moves the trained model if
    its own parameters `changed` are rounded as `result` stores them. "noise": its own error in
    float32 against float64, measured where it decides, else None. bound: what the form may add.
    """
    device = next(trained.parameters()).device
    wanted = _logits(trained, ids, device)
    _round(trained, changed, result, names)
    rounded = _logits(trained, ids, device)
    with tempfile.TemporaryDirectory() as scratch:
        opened = load_model(saved, dtype=torch.float32, device=device, scratch=Path(scratch))
        with opened as loaded:
            found = _logits(loaded.model, ids, device)
            report = loaded.report
    spread = float(wanted.std())
    error = float((found - wanted).abs().max()) / spread
    rounding = float((rounded - wanted).abs().max()) / spread
    allowed = FOLDED + NOISES * rounding + bound
    noise = None
    if report.clean and error > allowed:
        noise = float((_logits(trained.double(), ids, device) - rounded).abs().max()) / spread
        allowed += NOISES * noise
    return {
        "passed": report.clean and error <= allowed,
        "error": error,
        "allowed": allowed,
        "rounding": rounding,
        "noise": noise,
        "bound": bound,
        "load_report": report.to_dict(),
    }


def _logits(model: Any, ids: Tensor, device: torch.device) -> Tensor:
    with torch.inference_mode(), exact_arithmetic():
        logits: Tensor = model(input_ids=ids.to(device)).logits
    return logits.float().cpu()


def _round(model: Any, changed: Collection[str], result: Checkpoint, names: NameMap) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in changed:
        held = names.joint(name) or names.on_disk(name)[0][0]
        if held not in result:  # folded away
            continue
        dtype = FLOATING[result[held].dtype]
        with torch.no_grad():
            parameters[name].copy_(parameters[name].to(dtype))
