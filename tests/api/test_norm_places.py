"""Where BatchNorms have a place for statistics: a folded model follows new data as a live one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import normsurgery
from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.runtime import quiet
from normsurgery.api.folding.norm_places import Place, find_places, placed
from normsurgery.calibrate.arrays.samples import Samples
from normsurgery.calibrate.batch_statistics import reestimate
from normsurgery.checkpoint import open_checkpoint

WIDE = 2**40
# name → configuration class, model class, configuration
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "resnet": (
        "ResNetConfig", "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32},
    ),
    "textnet": (
        "TextNetConfig", "TextNetForImageClassification",
        {
            "stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 16, 16], "image_size": [32, 32],
            "conv_layer_kernel_sizes": [[[3, 3], [3, 3]], [[3, 1]], [[1, 3]], [[3, 3]]],
            "conv_layer_strides": [[1, 1], [2], [2], [1]],
        },
    ),
}  # fmt: skip


def build(name: str, directory: Path) -> Any:
    """A random model whose norms have seen other data: its class."""
    config_name, class_name, settings = MODELS[name]
    torch.manual_seed(0)
    model_class: Any = getattr(transformers, class_name)
    model = model_class(getattr(transformers, config_name)(**settings)).eval()
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.running_mean, norm.running_var = (
                    torch.randn(norm.num_features) * 0.3, torch.rand(norm.num_features) + 0.5,
                )  # fmt: skip
                sign = torch.where(torch.rand(norm.num_features) < 0.2, -1.0, 1.0)
                norm.weight.copy_((torch.rand(norm.num_features) + 0.5) * sign)
                norm.bias.normal_(0, 0.3)
    with quiet():
        model.save_pretrained(directory)
    return model_class


@pytest.fixture(params=MODELS)
def pair(request, tmp_path):
    """(class, original, folded)."""
    model_class = build(request.param, tmp_path / "original")
    normsurgery.fold_bn(tmp_path / "original", tmp_path / "folded", verify=False)
    return model_class, tmp_path / "original", tmp_path / "folded"


def places_of(directory: Path, original: Path | None) -> tuple[dict[str, Place], dict[str, str]]:
    checkpoint = open_checkpoint(directory)
    named = None if original is None else open_checkpoint(original)
    return find_places(checkpoint, examine(checkpoint), named)


def opened(model_class: Any, directory: Path) -> Any:
    with quiet():
        return model_class.from_pretrained(directory).double().eval()


def images(seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(12, 3, 32, 32, generator=draw, dtype=torch.float64) * 1.5 + 0.5


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(images(1)).logits
    return found


def recalibrated(model: Any, places: dict[str, Place]) -> Tensor:
    samples = Samples(tuple({"pixel_values": row[None]} for row in images(0)))
    axes = {name: place.norm.axis for name, place in places.items()}
    assert set(reestimate(model, axes, samples, memory_bytes=WIDE)) == set(places)
    return logits(model)


def test_a_place_changes_nothing_until_it_is_filled(pair):
    model_class, original, folded = pair
    places, _ = places_of(folded, original)
    model = opened(model_class, folded)
    before = logits(model)
    for name, place in places.items():
        assert place.reinserted
        placed(model.get_submodule(name), place.values, {})
    assert (logits(model) - before).abs().max() < 1e-9 * before.std()


def test_a_folded_model_follows_new_data_as_the_live_one_does(pair):
    model_class, original, folded = pair
    places, left = places_of(folded, original)
    live, _ = places_of(original, None)
    assert set(places) | set(left) == set(live)
    kept = {name: live[name] for name in places}
    stays = logits(opened(model_class, original))
    expected = recalibrated(opened(model_class, original), kept)
    model = opened(model_class, folded)
    for name, place in places.items():
        placed(model.get_submodule(name), place.values, {})
    found = recalibrated(model, places)
    moved = (expected - stays).abs().max()
    assert moved > 0.05 * stays.std()
    assert (found - expected).abs().max() < 0.01 * moved  # ε weighs a little more on small inputs


def test_a_norm_beside_a_convolution_is_left_and_named(tmp_path):
    build("textnet", tmp_path / "original")
    normsurgery.fold_bn(tmp_path / "original", tmp_path / "folded", verify=False)
    places, left = places_of(tmp_path / "folded", tmp_path / "original")
    assert places
    beside = {name.rpartition(".")[2]: reason for name, reason in left.items()}
    assert beside.keys() == {"rbr_identity", "main_batch_norm"}
    assert beside["rbr_identity"].startswith("its scale is in the convolution beside it")
    assert "also holds the scale of the norm beside it" in beside["main_batch_norm"]
    alone, needs = places_of(tmp_path / "folded", None)
    assert not alone
    assert any("--reference ORIGINAL" in reason for reason in needs.values())
