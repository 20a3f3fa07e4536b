"""Rotations are orthogonal, reproducible, and applied to stored tensors with one rounding."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from normsurgery.surgery import orthogonal
from normsurgery.surgery.orthogonal import Rotation, Spin, rotation, spun

WIDTHS = (1, 2, 12, 16, 48, 80, 100)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("keeps_ones", [False, True])
@pytest.mark.parametrize("kind", ["hadamard", "random"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_rotation_is_orthogonal_and_its_product_is_its_matrix_s(
    kind: orthogonal.Kind, width: int, keeps_ones: bool
) -> None:
    made = Rotation(kind, width, 3, keeps_ones)
    q = made.matrix()
    assert torch.allclose(q @ q.T, torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-13)
    vectors = rows(5, 3, width)
    assert torch.allclose(made.of(vectors), vectors @ q.T, rtol=0, atol=1e-12)
    if keeps_ones:
        ones = torch.ones(width, dtype=torch.float64)
        assert torch.allclose(q @ ones, ones, rtol=0, atol=1e-12)
    elif kind == "hadamard":
        assert torch.allclose(q.abs(), torch.full_like(q, width**-0.5), rtol=1e-12)


def test_a_spike_is_spread_over_all_channels() -> None:
    spike = torch.zeros(768, dtype=torch.float64)
    spike[5] = 1
    for keeps_ones, allowed in ((False, 1.001), (True, 6)):
        spread = rotation("hadamard", 768, 0, keeps_ones=keeps_ones).of(spike).abs()
        assert float(spread.max()) * 768**0.5 < allowed


def test_seeds_make_other_rotations_and_the_hash_is_that_of_the_values() -> None:
    for kind in ("hadamard", "random"):
        one, same, other = (Rotation(kind, 48, seed) for seed in (1, 1, 2))  # type: ignore[arg-type]
        assert one.sha256 == same.sha256 != other.sha256
        values = one.matrix().contiguous().numpy().astype("<f8").tobytes()
        assert one.sha256 == hashlib.sha256(values).hexdigest()
        assert one.to_dict()["sha256"] == one.sha256


def test_the_hash_of_a_hadamard_rotation_never_changes() -> None:
    """Results that users have written down name it."""
    assert rotation("hadamard", 24, 0).sha256.startswith(HADAMARD_24)
    assert rotation("hadamard", 24, 0, keeps_ones=True).sha256.startswith(HADAMARD_24_ONES)


HADAMARD_24, HADAMARD_24_ONES = "64543c0e5e2c44ae", "7b8d737ffddeb703"


def test_a_width_without_a_hadamard_matrix_gets_a_random_rotation() -> None:
    assert rotation("hadamard", 92, 0).kind == "random"
    assert rotation("hadamard", 96, 0).kind == "hadamard"


def dense(spin: Spin, size: int) -> Tensor:
    """The rotation of a whole axis as a matrix."""
    if spin.starts is None:
        return spin.rotation.matrix()
    made = torch.eye(size, dtype=torch.float64)
    width = spin.rotation.width
    for start in spin.starts:
        made[start : start + width, start : start + width] = spin.rotation.matrix()
    return made


STREAM, HEAD = Rotation("hadamard", 48, 0), Rotation("hadamard", 4, 1)
CASES: dict[str, tuple[tuple[int, ...], list[Spin]]] = {
    "reader": ((7, 48), [Spin(STREAM, 1)]),
    "writer": ((48, 7), [Spin(STREAM, 0)]),
    "bias": ((48,), [Spin(STREAM, 0)]),
    "values": ((24, 48), [Spin(STREAM, 1), Spin(HEAD, 0, (4, 8, 20))]),
    "values transposed": ((48, 24), [Spin(STREAM, 0), Spin(HEAD, 1, (0, 12))]),
    "output": ((48, 24), [Spin(STREAM, 0), Spin(HEAD, 1, tuple(range(0, 24, 4)))]),
    "bias of values": ((24,), [Spin(HEAD, 0, (8,))]),
    "experts reading": ((3, 9, 48), [Spin(STREAM, 2)]),
    "experts writing": ((3, 48, 9), [Spin(STREAM, 1)]),
    "stream to stream": ((48, 48), [Spin(STREAM, 0), Spin(STREAM, 1)]),
    "kernel": ((48, 3, 5, 5), [Spin(STREAM, 0)]),
}


@pytest.mark.parametrize("slab", [1, 50, 1 << 18])
@pytest.mark.parametrize("case", CASES)
def test_tensors_are_turned_along_their_axes_whatever_the_slabs(
    case: str, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orthogonal, "_SLAB_ELEMENTS", slab)
    shape, spins = CASES[case]
    weight = expected = rows(*shape)
    for spin in spins:
        turn = dense(spin, shape[spin.axis])
        expected = torch.tensordot(expected, turn, dims=([spin.axis], [1])).movedim(-1, spin.axis)
    assert torch.allclose(spun(weight, spins), expected, rtol=0, atol=1e-12)


def test_every_number_is_rounded_once() -> None:
    weight = rows(24, 48).bfloat16()
    _, spins = CASES["values"]
    expected = spun(weight.double(), spins).bfloat16()
    assert torch.equal(spun(weight, spins), expected)
    twice = spun(spun(weight, spins[:1]), spins[1:])
    assert not torch.equal(twice, expected)
