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
    found = {
        "convert": converted(scratch),
        "unreadable": unreadable(scratch),
        "keep": folded(scratch, "test_resnet", "keep"),
        "graft": folded(scratch, "test_resnet", "graft"),
        "native": folded(scratch, "fastvit_t8", "native"),
        "merged": folded(scratch, "fastvit_t8", "graft"),
        "no switch": refused(scratch, "test_resnet", "native"),
    }
    print(json.dumps(found))


# timm's smallest FastViT, smaller still.
SMALL: dict[str, Any] = {"layers": [1, 1, 1, 1], "embed_dims": [16, 32, 64, 128]}
SIDE = 64


def saved(name: str, directory: Path, **edits: Any) -> Path:
    """A timm model with random weights and statistics, saved in the form that timm pushes."""
    torch.manual_seed(0)
    arguments = SMALL if name == "fastvit_t8" else {}
    model = timm.create_model(name, num_classes=10, **arguments)
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(0.0, 0.1)
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    save_for_hf(model, directory, safe_serialization=True)
    file = directory / "config.json"
    config = json.loads(file.read_text())
    # What timm writes here repeats num_classes, which transformers' wrapper cannot read.
    config["model_args"] = arguments
    if name != "test_vit":  # any size will do
        config["pretrained_cfg"]["input_size"] = [3, SIDE, SIDE]
    file.write_text(json.dumps({**config, **edits}))
    return directory


def logits(directory: Path, **options: Any) -> torch.Tensor:
    """Of three fixed pictures, in transformers' wrapper."""
    model = transformers.AutoModelForImageClassification.from_pretrained(directory, **options)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(pictures(side_of(directory))).logits
    return found


def timm_logits(directory: Path) -> torch.Tensor:
    """The same, in timm itself."""
    model = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    with torch.no_grad():
        found: torch.Tensor = model(pictures(side_of(directory)))
    return found


def side_of(directory: Path) -> int:
    size: list[int] = json.loads((directory / "config.json").read_text())["pretrained_cfg"][
        "input_size"
    ]
    return size[-1]


def pictures(side: int) -> torch.Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


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


def folded(scratch: Path, name: str, form: Any) -> dict[str, Any]:
    """BatchNorms folded; what transformers and timm make of the result."""
    source = saved(name, scratch / name)
    output = scratch / f"{name}-{form}"
    document = normsurgery.fold_bn(source, output, form=form).to_dict()
    before = logits(source)
    trusted = {"trust_remote_code": True} if form == "graft" else {}
    config = json.loads((output / "config.json").read_text())
    return {
        "verdict": document["verification"]["verdict"],
        "folded": document["batch_norms"]["folded"],
        "left": document["batch_norms"]["left"],
        "merged": document["batch_norms"]["merged_maps"],
        "transformers": apart(logits(output, **trusted), before),
        "timm": opened_by_timm(output, source),
        "stored": (output / "model.safetensors").stat().st_size,
        "source": (source / "model.safetensors").stat().st_size,
        "kept": [key for key in ("architecture", "pretrained_cfg", "label_names") if key in config],
    }


def opened_by_timm(output: Path, source: Path) -> float | None:
    """How far timm's logits are from the source's; None where timm refuses the file."""
    try:
        return apart(timm_logits(output), timm_logits(source))
    except Exception as error:
        print(error, file=sys.stderr)
        return None


def refused(scratch: Path, name: str, form: Any) -> str:
    try:
        normsurgery.fold_bn(saved(name, scratch / "again"), scratch / "again-out", form=form)
    except SurgeryError as error:
        return error.message
    return ""


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
