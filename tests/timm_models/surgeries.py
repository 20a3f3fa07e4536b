"""Run surgeries on tiny checkpoints of timm, as timm writes them; print what came of it as JSON.

python surgeries.py SCRATCH
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from timm.models._hub import save_for_hf

import normsurgery
from normsurgery.errors import SurgeryError


def main() -> None:
    torch.set_num_threads(1)
    scratch = Path(sys.argv[1])
    print(json.dumps({"convert": converted(scratch), "unreadable": unreadable(scratch)}))


def saved(name: str, directory: Path, **edits: Any) -> Path:
    """A timm model with random weights and statistics, saved in the form that timm pushes."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10)
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(0.0, 0.1)
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    save_for_hf(model, directory, safe_serialization=True)
    file = directory / "config.json"
    config = json.loads(file.read_text())
    # What timm writes here repeats num_classes, which transformers' wrapper cannot read.
    config.pop("model_args", None)
    file.write_text(json.dumps({**config, **edits}))
    return directory


def logits(directory: Path, **options: Any) -> torch.Tensor:
    """Of three fixed pictures, in transformers' wrapper."""
    model = transformers.AutoModelForImageClassification.from_pretrained(directory, **options)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(pictures()).logits
    return found


def timm_logits(directory: Path) -> torch.Tensor:
    """The same, in timm itself."""
    model = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    with torch.no_grad():
        found: torch.Tensor = model(pictures())
    return found


def pictures() -> torch.Tensor:
    return torch.randn(3, 3, 160, 160, generator=torch.Generator().manual_seed(1))


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the spread."""
    return float((ours - theirs).abs().max() / theirs.std())


def converted(scratch: Path) -> dict[str, Any]:
    source, output = saved("test_vit", scratch / "vit"), scratch / "vit-rms"
    document = normsurgery.convert(source, output).to_dict()
    before = logits(source)
    return {
        "verdict": document["verification"]["verdict"],
        "stock": apart(logits(output), before),
        "graft": apart(logits(output, trust_remote_code=True), before),
        "timm": apart(timm_logits(output), timm_logits(source)),
    }


def unreadable(scratch: Path) -> dict[str, Any]:
    """A checkpoint that transformers' wrapper cannot open, although timm can."""
    twice = saved("test_vit", scratch / "twice", model_args={"num_classes": 10})
    try:
        normsurgery.convert(twice, scratch / "twice-out")
    except SurgeryError as error:
        return {"message": error.message, "hint": error.hint}
    return {}


if __name__ == "__main__":
    main()
