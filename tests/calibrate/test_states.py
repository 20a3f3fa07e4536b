"""Hidden states in memory and in files are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normsurgery.calibrate.states import HiddenStates
from normsurgery.errors import ResourceError, UsageError

SHAPES = [(2, 3, 4), (1, 5, 4)]


def filled(limit: int, directory: Path | None, dtype: torch.dtype) -> HiddenStates:
    states = HiddenStates(SHAPES, dtype, directory=directory, limit=limit, name="stream")
    for batch, shape in enumerate(SHAPES):
        states[batch] = torch.arange(torch.Size(shape).numel()).view(shape) + batch
    return states


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_files_hold_what_memory_holds(dtype: torch.dtype, tmp_path: Path) -> None:
    held, mapped = filled(10**6, None, dtype), filled(10, tmp_path, dtype)
    assert held.directory is None
    assert len(list(tmp_path.iterdir())) == 2
    for batch in range(2):
        assert mapped[batch].dtype == dtype
        assert torch.equal(held[batch], mapped[batch])
    mapped[1] = mapped[1] * 2
    assert torch.equal(mapped[1], held[1] * 2)
    assert held.nbytes == mapped.nbytes == 44 * dtype.itemsize


def test_the_limit_decides(tmp_path: Path) -> None:
    assert filled(44 * 4, tmp_path, torch.float32).directory is None
    assert filled(44 * 4 - 1, tmp_path, torch.float32).directory == tmp_path


def test_two_of_one_name_do_not_share_files(tmp_path: Path) -> None:
    first, second = filled(10, tmp_path, torch.float32), filled(10, tmp_path, torch.float32)
    second[0] = second[0] + 1
    assert torch.equal(first[0] + 1, second[0])


def test_a_copy_goes_to_files_when_memory_has_filled_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [1000, 300]
    monkeypatch.setattr("normsurgery.calibrate.states.available_memory_bytes", lambda: free.pop(0))
    states = HiddenStates(SHAPES, torch.float32, directory=tmp_path)
    for batch, shape in enumerate(SHAPES):
        states[batch] = torch.full(shape, 2.0)
    other = states.copy("other")
    assert states.directory is None
    assert other.directory == tmp_path
    assert torch.equal(other[1], states[1])


@pytest.mark.parametrize("limit", [10**6, 10])
def test_a_copy_is_of_its_own(limit: int, tmp_path: Path) -> None:
    states = filled(limit, tmp_path, torch.float32)
    before = states[0].clone()
    other = states.copy("other")
    other[0] = other[0] + 1
    assert torch.equal(states[0], before)
    assert torch.equal(other[0], before + 1)


def test_closing_removes_the_files(tmp_path: Path) -> None:
    states = filled(10, tmp_path, torch.float32)
    states.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(IndexError, match="never set"):
        states[0]


def test_what_is_not_set_cannot_be_read(tmp_path: Path) -> None:
    for limit in (10**6, 10):
        states = HiddenStates(SHAPES, torch.float32, directory=tmp_path, limit=limit)
        with pytest.raises(IndexError, match="never set"):
            states[1]
    with pytest.raises(ValueError, match="batch 1"):
        states[1] = torch.zeros(2, 2, 4)


def test_too_much_for_memory_needs_a_directory() -> None:
    with pytest.raises(UsageError, match="176 bytes"):
        HiddenStates(SHAPES, torch.float32, limit=100)


def test_too_much_for_the_disk_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="free"):
        HiddenStates([(1, 2**50, 2)], torch.float32, directory=tmp_path, limit=100)
