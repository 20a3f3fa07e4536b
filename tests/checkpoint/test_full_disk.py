"""A disk that is really full: exit code 5, and the destination as it was."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from normsurgery.checkpoint import LazyTensor, Staging, open_checkpoint, write_weights
from normsurgery.errors import ResourceError
from tests.checkpoint.conftest import rewrite, save, tree


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.getuid() != 0 or mount is None or umount is None:
        pytest.skip("only root can mount a small tmpfs")
    point = tmp_path / "disk"
    point.mkdir()
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", point], check=False)
    if done.returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        yield point
    finally:
        subprocess.run([umount, point], check=True)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Two megabytes of weights."""
    return save(tmp_path / "large", {"model.safetensors": {"w": torch.ones(1 << 19)}})


def test_refused_before_the_first_byte(small_disk: Path, large: Path) -> None:
    with pytest.raises(ResourceError, match="free"):
        rewrite(open_checkpoint(large), small_disk / "out")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("hashes", [False, True])
@pytest.mark.parametrize("computed", [False, True])
def test_full_while_writing(
    small_disk: Path, large: Path, tmp_path: Path, hashes: bool, computed: bool
) -> None:
    """As when another process takes the space after the check."""
    little = open_checkpoint(save(tmp_path / "little"))
    rewrite(little, small_disk / "out")
    before = tree(small_disk / "out")
    checkpoint = open_checkpoint(large)
    if computed:
        checkpoint = checkpoint.override({"w": checkpoint["w"].map(torch.clone, by_rows=True)})
    staging = Staging(small_disk / "out", overwrite=True, source=large, needed_bytes=0)
    with pytest.raises(ResourceError, match=r"disk is full: model\.safetensors") as caught, staging:
        write_weights(checkpoint, staging.path, hashes=hashes)
        staging.publish()
    assert caught.value.exit_code == 5
    assert caught.value.hint
    assert tree(small_disk / "out") == before
    assert [path.name for path in small_disk.iterdir()] == ["out"]
    rewrite(little, small_disk / "out", overwrite=True)  # the space is free again


@pytest.fixture
def file_limit() -> Iterator[int]:
    """No file of this process may grow past 64 KiB: works without root, too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        yield 65536
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("hashes", [False, True])
def test_a_limit_on_file_size_is_a_full_disk(
    large: Path, tmp_path: Path, file_limit: int, hashes: bool
) -> None:
    with pytest.raises(ResourceError, match=r"stopped at 65,536 bytes"):
        rewrite(open_checkpoint(large), tmp_path / "out", hashes=hashes)
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_a_side_file_that_does_not_fit(source: Path, tmp_path: Path, file_limit: int) -> None:
    checkpoint = open_checkpoint(source).with_files({"big.bin": bytes(70_000)})
    with pytest.raises(ResourceError, match=r"big\.bin"):
        rewrite(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_other_write_errors_are_one_line_too(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    checkpoint = open_checkpoint(source)
    checkpoint = checkpoint.override({"scale": LazyTensor.of(torch.tensor(1.0))})
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(ResourceError, match=r"could not be written: Input/output error"):
        rewrite(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
