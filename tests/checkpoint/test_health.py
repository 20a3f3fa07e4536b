"""Counting NaN and infinities, and seeing zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normsurgery.checkpoint import LazyTensor, count_nonfinite, is_all_zero, open_checkpoint
from normsurgery.checkpoint import health as health_module
from tests.checkpoint.conftest import save

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
def test_counts_over_many_chunks(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "CHUNK_BYTES", 64)
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[[0, 500, 999]] = float("nan")
    values[[1, 2]] = float("inf")
    values[700] = float("-inf")
    save(tmp_path / "m", {"model.safetensors": {"bad": values, "good": torch.ones(9).to(dtype)}})
    checkpoint = open_checkpoint(tmp_path / "m")
    assert count_nonfinite(checkpoint["bad"]) == (3, 3)
    assert count_nonfinite(checkpoint["bad"].map(torch.clone)) == (3, 3)
    assert count_nonfinite(checkpoint["good"]) == (0, 0)


@pytest.mark.parametrize(
    ("dtype", "nan", "inf"),
    [
        (torch.float8_e4m3fn, 2, 0),
        (torch.float8_e5m2, 6, 2),
        (torch.float8_e4m3fnuz, 1, 0),
        (torch.float8_e5m2fnuz, 1, 0),
        (torch.float8_e8m0fnu, 1, 0),
        (torch.uint8, 0, 0),
    ],
)
def test_all_256_bytes_of_the_small_types(dtype: torch.dtype, nan: int, inf: int) -> None:
    """The counts are those of the OCP and FNUZ definitions."""
    values = torch.arange(256, dtype=torch.uint8).view(dtype)
    assert count_nonfinite(LazyTensor.of(values)) == (nan, inf)


def test_complex_parts_count_apart() -> None:
    value = torch.complex(torch.tensor([float("nan"), 1.0]), torch.tensor([float("inf"), 2.0]))
    assert count_nonfinite(LazyTensor.of(value)) == (1, 1)


def test_the_largest_finite_values_are_finite() -> None:
    for dtype in FLOATS:
        extremes = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)
        assert count_nonfinite(LazyTensor.of(extremes)) == (0, 0)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_all_zero(dtype: torch.dtype) -> None:
    zeros = torch.zeros(300, dtype=torch.uint8).view(dtype) if dtype.itemsize == 1 else None
    values = zeros if zeros is not None else torch.zeros(300, dtype=dtype)
    assert is_all_zero(LazyTensor.of(values))
    other = values.clone()
    other.view(torch.uint8)[-1] = 1
    assert not is_all_zero(LazyTensor.of(other))


def test_minus_zero_is_zero_and_empty_is_all_zero() -> None:
    assert is_all_zero(LazyTensor.of(torch.full((3,), -0.0)))
    assert is_all_zero(LazyTensor.of(torch.zeros(0)))
