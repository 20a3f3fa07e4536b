"""One image or one sound from its file."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

from normsurgery.errors import UsageError


def read_image(path: Path, *, channels: int = 3) -> Any:
    """The image as uint8 [height, width, channels], upright (EXIF); of a film the first picture.

    channels: 1 is grey, 4 has alpha, any other number is colour (3). Sixteen bits become eight.
    UsageError where Pillow is absent or cannot read the file.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UsageError(
            f"{path.name} is an image, and Pillow is not installed",
            "pip install 'normsurgery[images]'",
        ) from None
    mode = {1: "L", 4: "RGBA"}.get(channels, "RGB")
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16") or image.mode == "I":
                image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
            pixels = np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"{path} cannot be read as an image: {_line(error)}", "is the file complete?"
        ) from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def read_wave(path: Path) -> tuple[Any, int]:
    """The sound as float32 [samples] in [-1, 1), its channels averaged, and samples a second.

    UsageError for anything but plain PCM, and for a file without a sample.
    """
    try:
        with wave.open(str(path), "rb") as sound:
            width, channels, rate = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
            raw = sound.readframes(sound.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise UsageError(
            f"{path} cannot be read as a sound: {_line(error)}", "save it as PCM .wav"
        ) from None
    raw = raw[: len(raw) - len(raw) % (width * channels)]
    if not raw:
        raise UsageError(f"{path} holds no sound", "give a file with samples in it")
    return _pcm(raw, width).reshape(-1, channels).mean(axis=1, dtype=np.float32), rate


def _pcm(raw: bytes, width: int) -> Any:
    """Samples of `width` bytes, little-endian, as float32 in [-1, 1). Eight bits are unsigned."""
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    # Three bytes: the upper three of four, so that the sign is where int32 has it.
    padded = np.zeros((len(raw) // width, 4), np.uint8)
    padded[:, 4 - width :] = np.frombuffer(raw, np.uint8).reshape(-1, width)
    return (padded.view("<i4")[:, 0] / 2.0**31).astype(np.float32)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
