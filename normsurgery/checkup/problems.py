"""Known problems, each found by a function of plain facts: None where all is well."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

# What the test suite runs with: constraints.txt.
TESTED = {"torch": "2.13.0", "transformers": "5.23.0"}
LITTLE_DISK = 5 * 10**9
LITTLE_MEMORY = 2 * 2**30
_YES = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads a variable


class Problem(NamedTuple):
    """what: what is so, in one line. hint: what to do about it."""

    what: str
    hint: str


def broken_library(
    name: str, version: str | None, error: str | None, *, install: str, needed: bool
) -> Problem | None:
    """A library that is needed and not there, or that is there and cannot be imported.

    error: what its import raised, None where it was not tried or went well.
    """
    if version is None:
        return Problem(f"{name} is not installed", install) if needed else None
    if error is None:
        return None
    return Problem(f"{name} {version} does not import: {error}", f"{install} --force-reinstall")


def unfitting_torchvision(torchvision: str | None, error: str | None, torch: str) -> Problem | None:
    """A torchvision made for another torch takes transformers' image classes down with it."""
    if torchvision is None or error is None:
        return None
    return Problem(
        f"torchvision {torchvision} does not import beside torch {torch}: {error}",
        "pip install the torchvision of this torch's release from the same index, "
        "or pip uninstall torchvision",
    )


def too_old(name: str, version: str | None, least: str) -> Problem | None:
    """A library below the release that the package asks for."""
    if version is None or release(version) >= release(least):
        return None
    return Problem(f"{name} {version} is older than {least}", f'pip install -U "{name}>={least}"')


def newer_than_tested(name: str, version: str | None) -> Problem | None:
    """A minor release that came after the one that the tests run with."""
    tested = TESTED[name]
    if version is None or release(version)[:2] <= release(tested)[:2]:
        return None
    return Problem(
        f"{name} {version} is newer than {tested}, the one that is tested",
        f'if a model fails that should not: pip install "{name}=={tested}"',
    )


def release(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` → (2, 13, 0)."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in numbers[0].split(".")) if numbers else ()


def little_disk(what: str, free: int | None) -> Problem | None:
    """free: bytes; None where nobody knows."""
    if free is None or free >= LITTLE_DISK:
        return None
    moved = "HF_HOME=DIR moves the cache" if what == "Hub cache" else "-o DIR writes elsewhere"
    return Problem(
        f"{what}: {free / 1e9:.1f} GB of disk free",
        f"a model of 1 B parameters takes 2 GB in bfloat16; free some space, or {moved}",
    )


def unwritable(what: str, path: str, *, writable: bool) -> Problem | None:
    """A directory that has to be written to, and cannot."""
    if writable:
        return None
    moved = "HF_HOME=DIR moves the cache" if what == "Hub cache" else "-o DIR writes elsewhere"
    return Problem(f"{what}: {path} cannot be written to", f"chown or chmod it, or {moved}")


def little_memory(free: int | None) -> Problem | None:
    """free: bytes of main memory; None where nobody knows."""
    if free is None or free >= LITTLE_MEMORY:
        return None
    return Problem(
        f"{free / 2**30:.1f} GiB of memory free",
        "verification holds the source and the result: close other programs, or --no-verify",
    )


def too_many_threads(threads: int | None, cpus: int) -> Problem | None:
    """torch with more threads than this process has processors waits for itself."""
    if threads is None or threads <= cpus:
        return None
    return Problem(f"torch uses {threads} threads on {cpus} CPUs", f"export OMP_NUM_THREADS={cpus}")


def unused_gpu(*, driver: bool, build: str | None, found: bool) -> Problem | None:
    """An NVIDIA driver that torch does not use. build: torch's CUDA version, None without one."""
    if not driver or found:
        return None
    if build is None:
        return Problem(
            "there is an NVIDIA driver, but this torch is built without CUDA",
            "pip install a torch with CUDA: https://pytorch.org/get-started/locally",
        )
    return Problem(
        f"there is an NVIDIA driver, but torch (CUDA {build}) finds no device",
        "look at nvidia-smi and at CUDA_VISIBLE_DEVICES; the driver may be too old for this CUDA",
    )


def offline(environment: Mapping[str, str]) -> Problem | None:
    """The Hub is switched off by a variable."""
    if environment.get("HF_HUB_OFFLINE", "").upper() not in _YES:
        return None
    return Problem(
        "HF_HUB_OFFLINE is set: of the Hub, only what the cache holds can be opened",
        "unset HF_HUB_OFFLINE",
    )
