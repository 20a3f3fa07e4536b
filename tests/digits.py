"""Image classifiers trained on scikit-learn's digits: small enough to train in a test, and real.

1,797 grey images of 8 × 8 pixels, enlarged, in three equal channels; every fifth is held out.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from normsurgery.anatomy.runtime import quiet

SIDE = 16  # pixels: each of the 8 × 8 doubled
BATCH = 64
_NORM = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": SIDE, "width": SIDE}}

# name → (model class, configuration class, configuration, passes over the images, learning rate)
CLASSIFIERS: dict[str, tuple[str, str, dict[str, Any], int, float]] = {
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {
            "embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1],
            "layer_type": "basic", "image_size": SIDE,
        },
        4, 5e-3,
    ),
    "mobilenet_v2": (
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {
            "image_size": SIDE, "depth_multiplier": 0.5, "output_stride": 32,
            "classifier_dropout_prob": 0.0,
        },
        9, 4e-3,
    ),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64, "image_size": SIDE, "patch_size": 4,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.1,
        },
        14, 5e-3,
    ),
}  # fmt: skip


@cache
def digits() -> tuple[Any, Any, Any, Any]:
    """Training images uint8 [1437, side, side] and labels [1437]; the same of the held-out 360."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
    pixels = pixels.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)
    held = np.arange(len(pixels)) % 5 == 4
    return pixels[~held], labels[~held], pixels[held], labels[held]


def as_inputs(pixels: Any) -> Tensor:
    """What the processor makes of the images: float32 [images, 3, side, side] in [-1, 1]."""
    return (torch.from_numpy(pixels).float()[:, None].repeat(1, 3, 1, 1) / 255 - 0.5) / 0.5


def train_classifier(name: str, directory: Path) -> None:
    """Train one of CLASSIFIERS from a fixed seed; save it with its image processor."""
    import transformers

    class_name, config_name, settings, epochs, rate = CLASSIFIERS[name]
    torch.manual_seed(0)
    labels = {
        "id2label": {i: str(i) for i in range(10)},
        "label2id": {str(i): i for i in range(10)},
    }
    config = getattr(transformers, config_name)(**settings, **labels)
    model = getattr(transformers, class_name)(config).train()
    pixels, targets, _, _ = digits()
    inputs, wanted = as_inputs(pixels), torch.from_numpy(targets)
    steps = epochs * (len(inputs) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(BATCH)[: len(inputs) // BATCH]:
            loss = functional.cross_entropy(model(inputs[rows]).logits, wanted[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        model(inputs)  # MobileNetV2's norms remember little but the last batch: let it be all
    with quiet():
        model.eval().save_pretrained(directory)
    processor = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "resample": 2,
                 "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}  # fmt: skip
    path = directory / "preprocessor_config.json"
    path.write_text(json.dumps({**processor, **_NORM}), encoding="utf-8")


def logits_of(model: Any, pixels: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """The model's logits [images, 10], in batches."""
    with torch.inference_mode():
        parts = as_inputs(pixels).to(dtype).split(180)
        return torch.cat([model(part).logits for part in parts])


def accuracy(logits: Tensor, labels: Any) -> float:
    """The share of images whose largest logit is the label's."""
    return float((logits.argmax(-1) == torch.from_numpy(labels)).double().mean())


def save_folders(directory: Path, pixels: Any, labels: Any) -> Path:
    """The images as PNG files in a folder a label."""
    from PIL import Image

    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = directory / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:04}.png")
    return directory
