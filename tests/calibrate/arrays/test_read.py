"""Images, sounds and arrays from files: what comes out, and what is refused with which reason."""

from __future__ import annotations

import json
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from normsurgery.calibrate.arrays.media import read_image, read_wave
from normsurgery.calibrate.arrays.read import read_arrays
from normsurgery.errors import UsageError

RNG = np.random.default_rng(0)


class Model:
    """What `read_arrays` looks at."""

    main_input_name = "pixel_values"

    def __init__(self, **config: Any) -> None:
        labels = config.pop("labels", ("cat", "dog"))
        settings = {"num_channels": 3, "image_size": 8, **config}
        self.config = type("Config", (), settings)()
        self.config.label2id = {name: number for number, name in enumerate(labels)}

    def forward(self, pixel_values: Any = None, pixel_mask: Any = None, **kwargs: Any) -> None: ...


class Listener(Model):
    main_input_name = "input_values"

    def forward(self, input_values: Any = None, attention_mask: Any = None) -> None: ...  # type: ignore[override]


def picture(path: Path, *, size: tuple[int, int] = (8, 8), channels: int = 3) -> Any:
    pixels = RNG.integers(0, 256, (*size, channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path)
    return pixels


def sound(
    path: Path, samples: Any, *, width: int = 2, channels: int = 1, rate: int = 16000
) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples)
    return path


def processor(directory: Path, **settings: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("{}")
    chosen = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True,
        "size": {"height": 4, "width": 4}, "do_normalize": True, "image_mean": [0.5, 0.25, 0.0],
        "image_std": [0.5, 0.5, 2.0], **settings,
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(chosen))
    return directory


def refused(path: Path, model: Any, directory: Path) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_arrays(path, model, directory)
    assert caught.value.hint
    return caught.value


def test_without_a_processor_an_image_is_its_pixels_over_255(tmp_path):
    pixels = picture(tmp_path / "a.png")
    samples = read_arrays(tmp_path / "a.png", Model(), tmp_path)
    expected = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    assert samples.labels is None
    assert torch.equal(samples.rows[0]["pixel_values"], expected)


@pytest.mark.parametrize(("channels", "size"), [(1, 6), (3, 6), (4, 6), (3, (4, 10))])
def test_without_a_processor_an_image_gets_the_model_s_channels_and_size(tmp_path, channels, size):
    picture(tmp_path / "a.png", size=(9, 13))
    model = Model(num_channels=channels, image_size=size)
    made = read_arrays(tmp_path, model, tmp_path).rows[0]["pixel_values"]
    assert made.shape == (1, channels, *((size, size) if isinstance(size, int) else size))
    assert 0 <= made.min() < made.max() <= 1


def test_the_checkpoint_s_processor_resizes_and_normalizes(tmp_path):
    Image.new("RGB", (9, 5), (255, 0, 51)).save(tmp_path / "a.png")
    samples = read_arrays(tmp_path / "a.png", Model(), processor(tmp_path / "model"))
    made = samples.rows[0]["pixel_values"]
    assert made.shape == (1, 3, 4, 4)
    assert made[0, :, 0, 0].tolist() == pytest.approx([1.0, -0.5, 0.1])
    assert samples.about["prepared"].startswith("ViTImageProcessor")


def test_images_are_prepared_by_pillow(tmp_path):
    """With torchvision, whose pixels differ, the same checkpoint would give others elsewhere."""
    picture(tmp_path / "a.png")
    samples = read_arrays(tmp_path / "a.png", Model(), processor(tmp_path / "model"))
    assert samples.about["prepared"] == "ViTImageProcessorPil"
    assert "torchvision" not in sys.modules


def test_sub_folders_are_labels_and_order_is_by_name(tmp_path):
    for name in ("dog/b.png", "dog/a.png", "cat/z.png"):
        picture(tmp_path / "data" / name)
    (tmp_path / "data/dog/readme.txt").write_text("no picture")
    (tmp_path / "data/.hidden").mkdir()
    samples = read_arrays(tmp_path / "data", Model(), tmp_path)
    assert samples.labels == (0, 1, 1)
    assert samples.about["samples"] == 3


@pytest.mark.parametrize(
    ("labels", "folders", "expected"),
    [
        (("cat", "dog"), ("1", "0"), {0, 1}),
        (("LABEL_0", "LABEL_1"), ("wolf", "ape"), {0, 1}),
        (("cat", "dog"), ("wolf", "ape"), None),
        (("LABEL_0", "LABEL_1", "LABEL_2"), ("wolf", "ape"), None),
        (("cat", "dog"), ("7", "0"), None),
    ],
)
def test_folders_that_are_no_labels_are_said_to_be_none(tmp_path, labels, folders, expected):
    for folder in folders:
        picture(tmp_path / "data" / folder / "a.png")
    samples = read_arrays(tmp_path / "data", Model(labels=labels), tmp_path)
    assert (None if samples.labels is None else set(samples.labels)) == expected
    assert bool(samples.notes) == (expected is None)


def test_a_limit_draws_samples_with_their_labels(tmp_path):
    pixels = RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(40)
    np.savez(tmp_path / "a.npz", pixel_values=pixels, labels=np.arange(40) % 2)
    first, again, other = (
        read_arrays(tmp_path / "a.npz", Model(), tmp_path, limit=10, seed=seed)
        for seed in (0, 0, 1)
    )
    numbers = [round(float(row["pixel_values"][0, 0, 0, 0]) * 255) for row in first.rows]
    assert first.labels == tuple(number % 2 for number in numbers)
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 10
    assert first.labels == again.labels
    assert first.labels != other.labels


def test_sixteen_bits_and_exif_are_read(tmp_path):
    Image.fromarray(np.full((4, 6), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, 0].tolist() == [100, 100, 100]
    turned = Image.new("RGB", (6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (6, 4, 3)


@pytest.mark.parametrize(
    ("width", "raw", "expected"),
    [
        (1, bytes([128, 0, 192]), [0, -1, 0.5]),
        (2, np.array([0, -32768, 16384], "<i2").tobytes(), [0, -1, 0.5]),
        (3, bytes([0, 0, 0, 0, 0, 0x80, 0, 0, 0x40]), [0, -1, 0.5]),
        (4, np.array([0, -(2**31), 2**30], "<i4").tobytes(), [0, -1, 0.5]),
    ],
)
def test_waves_of_every_width_have_the_same_values(tmp_path, width, raw, expected):
    samples, rate = read_wave(sound(tmp_path / "a.wav", raw, width=width))
    assert samples.tolist() == expected
    assert rate == 16000
    assert samples.dtype == np.float32


def test_two_channels_of_a_wave_are_averaged(tmp_path):
    raw = np.array([[16384, 0], [-16384, -16384]], "<i2").tobytes()
    samples, _ = read_wave(sound(tmp_path / "a.wav", raw, channels=2))
    assert samples.tolist() == [0.25, -0.5]


def test_a_wave_goes_through_the_feature_extractor(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True,
                 "sampling_rate": 16000}  # fmt: skip
    (model / "preprocessor_config.json").write_text(json.dumps(extractor))
    raw = (RNG.normal(size=800) * 3000 + 500).astype("<i2").tobytes()
    made = read_arrays(sound(tmp_path / "a.wav", raw), Listener(), model).rows[0]["input_values"]
    assert made.shape == (1, 800)
    assert float(made.mean()) == pytest.approx(0, abs=1e-4)
    assert float(made.std()) == pytest.approx(1, abs=1e-2)
    slow = sound(tmp_path / "slow.wav", raw, rate=8000)
    assert "8000 samples a second, the model hears 16000" in str(refused(slow, Listener(), model))


def test_a_wave_without_an_extractor_is_its_samples(tmp_path):
    raw = np.array([0, 16384], "<i2").tobytes()
    made = read_arrays(sound(tmp_path / "a.wav", raw), Listener(), tmp_path).rows[0]
    assert made["input_values"].tolist() == [[0, 0.5]]


def test_floating_arrays_are_inputs_as_they_are(tmp_path):
    values = RNG.normal(size=(3, 3, 5, 5))
    np.save(tmp_path / "a.npy", values)
    samples = read_arrays(tmp_path / "a.npy", Model(), processor(tmp_path / "model"))
    made = next(samples.batches(8)).inputs["pixel_values"]
    assert made.dtype == torch.float32
    assert torch.equal(made, torch.from_numpy(values).float())


def test_named_arrays_go_to_their_arguments(tmp_path):
    mask = np.array([[1, 0], [1, 1]])
    np.savez(tmp_path / "a.npz", pixel_values=np.ones((2, 3, 4, 4)), pixel_mask=mask)
    inputs = next(read_arrays(tmp_path / "a.npz", Model(), tmp_path).batches(8)).inputs
    assert inputs["pixel_mask"].tolist() == [[1, 0], [1, 1]]
    assert inputs["pixel_mask"].dtype == torch.int64


def test_bytes_are_images_and_grey_ones_fill_the_channels(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 8, 8), 51, np.uint8))
    made = read_arrays(tmp_path / "a.npy", Model(), tmp_path).rows[0]["pixel_values"]
    assert made.shape == (1, 3, 8, 8)
    assert made.unique().tolist() == pytest.approx([0.2])


def test_batches_join_only_samples_of_one_shape(tmp_path):
    for name, size in (("a", (8, 8)), ("b", (8, 8)), ("c", (8, 6)), ("d", (8, 6))):
        picture(tmp_path / f"{name}.png", size=size)
    samples = read_arrays(tmp_path, Model(image_size=None), tmp_path)
    shapes = [tuple(b.inputs["pixel_values"].shape) for b in samples.batches(3)]
    assert shapes == [(2, 3, 8, 8), (2, 3, 8, 6)]


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path):
    model = Model()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no more")
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    reasons = {
        tmp_path / "broken.png": "broken.png cannot be read as an image",
        tmp_path / "broken.wav": "broken.wav cannot be read as a sound",
        tmp_path / "broken.npz": "broken.npz cannot be read as arrays",
        tmp_path / "text.txt": "no image, sound or array",
        tmp_path / "empty": "holds no image and no sound",
        tmp_path / "brokn.png": "no file or folder",
        sound(tmp_path / "none.wav", b""): "holds no sound",
        saved(tmp_path / "nan.npz", pixel_values=np.full((1, 3, 2, 2), np.nan)): "NaN",
        saved(tmp_path / "name.npz", pixel_values=np.ones((1, 3)), ids=np.ones((1, 3))): "no ids",
        saved(tmp_path / "rows.npz", pixel_values=np.ones((2, 3)), labels=np.ones(3)): "labels 3",
        saved(tmp_path / "label.npz", x=np.ones((2, 3)), labels=np.array([0, 2])): "from 0 to 2",
        saved(tmp_path / "kind.npz", x=np.ones((2, 3)), labels=np.ones(2)): "type float64",
        saved(tmp_path / "words.npz", x=np.array(["a", "b"])): "<U1",
        saved(tmp_path / "void.npz", x=np.ones((0, 3))): "holds no sample",
        saved(tmp_path / "only.npz", labels=np.array([0])): "holds no input",
        saved(tmp_path / "grey.npz", x=np.ones((1, 8, 8, 4), np.uint8)): "images of 4 channels",
    }
    for path, reason in reasons.items():
        assert reason in str(refused(path, model, tmp_path)), path
    assert "did you mean" in refused(tmp_path / "brokn.png", model, tmp_path).hint


def test_a_folder_of_one_kind_is_asked_for(tmp_path):
    picture(tmp_path / "mixed/a.png")
    sound(tmp_path / "mixed/b.wav", bytes(8))
    assert "several kinds of data" in str(refused(tmp_path / "mixed", Model(), tmp_path))
    picture(tmp_path / "both/a.png")
    picture(tmp_path / "both/cat/a.png")
    assert "a.png has no label" in str(refused(tmp_path / "both", Model(), tmp_path))


def test_a_model_of_another_kind_is_refused(tmp_path):
    picture(tmp_path / "a.png")
    assert "takes no images" in str(refused(tmp_path / "a.png", Listener(), tmp_path))
    raw = sound(tmp_path / "a.wav", bytes(8))
    assert "takes no sounds" in str(refused(raw, Model(), tmp_path))


def test_a_processor_that_refuses_or_does_not_load_says_so(tmp_path):
    picture(tmp_path / "a.png")
    short = processor(tmp_path / "short", image_mean=[0.5])
    assert "refuses it" in str(refused(tmp_path / "a.png", Model(), short))
    unknown = processor(tmp_path / "unknown", image_processor_type="NoSuchProcessor")
    assert "cannot be loaded" in str(refused(tmp_path / "a.png", Model(), unknown))
