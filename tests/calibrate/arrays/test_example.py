"""A user's file as a twin's inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import normsurgery
from normsurgery.anatomy.examine import examine
from normsurgery.calibrate.arrays.example import examples_of, fitted
from normsurgery.checkpoint import open_checkpoint
from normsurgery.errors import UnsupportedModelError, UsageError


def test_fitted_images_are_resized_and_other_axes_tiled_or_cut():
    image = torch.rand(1, 3, 9, 5)
    assert fitted(image, torch.Size((2, 3, 4, 4))).shape == (2, 3, 4, 4)
    assert fitted(image, torch.Size((1, 2, 3, 9, 5)))[0, 1].equal(image[0])
    wave = torch.arange(3.0)[None]
    assert fitted(wave, torch.Size((1, 5))).tolist() == [[0, 1, 2, 0, 1]]
    assert fitted(wave, torch.Size((1, 2))).tolist() == [[0, 1]]
    assert fitted(image, torch.Size((1, 4))) is image


def test_the_twin_runs_on_the_user_s_image(tiny, tmp_path):
    directory = tiny("vit")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    checkpoint = open_checkpoint(directory)
    examples = examples_of(tmp_path / "a.png", directory)
    own, made_up = examine(checkpoint, examples=examples), examine(checkpoint)
    found, usual = own.twin.inputs["pixel_values"], made_up.twin.inputs["pixel_values"]
    assert found.shape == usual.shape
    assert found.dtype == torch.float64
    assert 0 <= found.min() < found.max() <= 1 < usual.max()
    assert torch.equal(found[0], found[1])
    assert own.anatomy.sites.keys() == made_up.anatomy.sites.keys()


def test_an_example_may_be_what_no_configuration_tells(tiny, tmp_path):
    """Where nothing can be made up, the file's own inputs are tried as they are."""
    directory = tiny("vit")
    np.savez(tmp_path / "a.npz", pixel_values=np.ones((2, 3, 32, 32)))
    examples = examples_of(tmp_path / "a.npz", directory)
    model = examine(open_checkpoint(directory)).twin.model
    del model.config.image_size
    model.config.__dict__.pop("num_channels", None)
    tried = list(examples(model, 2, 11, 0))
    assert torch.equal(tried[-1]["pixel_values"], torch.ones(2, 3, 32, 32, dtype=torch.float64))


def test_an_example_that_the_twin_cannot_take_is_refused(tiny, tmp_path):
    directory = tiny("vit")
    np.savez(tmp_path / "a.npz", pixel_values=np.ones((1, 3, 2, 2, 2, 2)))
    with pytest.raises(UnsupportedModelError, match="does not run"):
        examine(open_checkpoint(directory), examples=examples_of(tmp_path / "a.npz", directory))
    with pytest.raises(UsageError, match="no file or folder"):
        examine(open_checkpoint(directory), examples=examples_of(tmp_path / "b.npz", directory))


def test_fold_bn_traces_with_the_user_s_file_and_verifies_on_it(classifier, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    source, out = classifier("resnet"), tmp_path / "out"
    document = normsurgery.fold_bn(source, out, example=tmp_path / "a.npy").document
    assert document["batch_norms"]["folded"] == 6
    assert document["verification"]["stock"]["tokens"] == 3
    np.save(tmp_path / "bad.npy", np.full((1, 3, 16, 16), np.inf))
    with pytest.raises(UsageError, match="NaN or Inf"):
        normsurgery.fold_bn(source, tmp_path / "again", example=tmp_path / "bad.npy")
