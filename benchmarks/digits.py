"""Classifiers of scikit-learn's digits through `fold-bn` and `fold --what recalibrate`.

Trains ResNet and MobileNetV2 (tiny, some seconds each) and prints, on the 359 digits that no
training saw: how many predictions of the folded files differ from the source's, in float32 and
in bfloat16, beside how many the source itself turns between the two; and the ResNet's accuracy
after it was damaged, before and after its statistics are measured anew on 300 digits of the
training set.

    python benchmarks/digits.py
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageClassification

import normsurgery
from normsurgery.anatomy.runtime import quiet
from normsurgery.errors import VerificationError
from tests.digits import accuracy, as_inputs, digits, logits_of, train_classifier

FITTED = 300


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name in ("resnet", "mobilenet_v2"):
            (root / name).mkdir()
            train_classifier(name, root / name)
            for form in ("keep", "graft"):
                folded = root / f"{name}-{form}"
                normsurgery.fold_bn(root / name, folded, form=form, verify=False)
            predictions(root, name)
        recalibrations(root)


def predictions(root: Path, name: str) -> None:
    pixels, labels = digits()[2:]
    source = {dtype: answers(root / name, dtype) for dtype in (torch.float32, torch.bfloat16)}
    turned = int((source[torch.float32] != source[torch.bfloat16]).sum())
    right = accuracy(logits_of(opened(root / name, torch.float32), pixels), labels)
    print(f"{name}: accuracy {right:.3f}; {turned} of {len(pixels)} predictions of the source "
          "differ between float32 and bfloat16")  # fmt: skip
    for form in ("keep", "graft"):
        for dtype, expected in source.items():
            differ = int((answers(root / f"{name}-{form}", dtype) != expected).sum())
            print(f"  {form}, {dtype}: {differ} differ from the source's")


def opened(directory: Path, dtype: torch.dtype) -> Any:
    with quiet():
        return AutoModelForImageClassification.from_pretrained(
            directory, dtype=dtype, trust_remote_code=True
        ).eval()


def answers(directory: Path, dtype: torch.dtype) -> Tensor:
    return logits_of(opened(directory, dtype), digits()[2], dtype).argmax(-1)


def recalibrations(root: Path) -> None:
    pixels, labels, unseen, truth = digits()
    data = root / "digits.npz"
    np.savez(data, pixel_values=as_inputs(pixels[:FITTED]).numpy(), labels=labels[:FITTED])
    for what, source, damage in (
        ("50 % pruned", "resnet", pruning(0.5)),
        ("70 % pruned", "resnet", pruning(0.7)),
        ("4 bits a weight", "resnet", rounding(4)),
        ("3 bits a weight", "resnet", rounding(3)),
        ("folded, then 50 % pruned", "resnet-keep", pruning(0.5)),
    ):
        damaged, out = root / "damaged", root / "out"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(root / source, damaged)
        file = damaged / "model.safetensors"
        tensors = {name: damage(value) for name, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
        try:
            normsurgery.fold(
                damaged, out, what="recalibrate", data=data, overwrite=True,
                reference=root / "resnet" if source != "resnet" else None,
            )  # fmt: skip
        except VerificationError as error:
            print(f"recalibrated, {what}: {error.message}")
            continue
        before, after = (
            accuracy(logits_of(opened(place, torch.float32), unseen), truth)
            for place in (damaged, out)
        )
        print(f"recalibrated, {what}: accuracy {before:.3f} → {after:.3f}")


def pruning(share: float) -> Callable[[Tensor], Tensor]:
    """The smallest weights of a convolution set to zero."""

    def damage(weight: Tensor) -> Tensor:
        if weight.dim() != 4:
            return weight
        threshold = weight.abs().flatten().quantile(share)
        return torch.where(weight.abs() > threshold, weight, 0.0)

    return damage


def rounding(bits: int) -> Callable[[Tensor], Tensor]:
    """A convolution's weights rounded to the nearest of a grid an output channel."""

    def damage(weight: Tensor) -> Tensor:
        if weight.dim() != 4:
            return weight
        step = weight.abs().amax((1, 2, 3), keepdim=True) / (2 ** (bits - 1) - 1)
        rounded: Tensor = (weight / step).round() * step
        return rounded

    return damage


if __name__ == "__main__":
    main()
