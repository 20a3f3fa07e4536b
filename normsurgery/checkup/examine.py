"""All known problems of an installation, found in its document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from normsurgery.checkup import problems as p
from normsurgery.checkup.libraries import LEAST, TORCHVISION

_NEEDED = ("torch", "transformers", "safetensors", "accelerate", "huggingface_hub")


def problems(document: Mapping[str, Any]) -> list[p.Problem]:
    """What is wrong, the libraries first. document: as `doctor` has it, without its problems."""
    found = [*_of_libraries(document["libraries"]), *_of_torch(document)]
    for disk in document["disks"]:
        found.append(p.little_disk(disk["what"], disk["free"]))
        found.append(p.unwritable(disk["what"], disk["path"], writable=disk["writable"]))
    found.append(p.little_memory(document["memory"]["free"]))
    found.append(p.offline(document["environment"]))
    return [one for one in found if one is not None]


def _of_libraries(libraries: list[dict[str, Any]]) -> Iterator[p.Problem | None]:
    named = {one["name"]: one for one in libraries}
    for name, one in named.items():
        if name == TORCHVISION.name:
            torch = named["torch"]["version"] or "that is not there"
            yield p.unfitting_torchvision(one["version"], one["error"], torch)
            continue
        yield p.broken_library(
            name, one["version"], one["error"], install=one["install"], needed=name in _NEEDED
        )
        if name in LEAST:
            yield p.too_old(name, one["version"], LEAST[name])
        if name in p.TESTED:
            yield p.newer_than_tested(name, one["version"])


def _of_torch(document: Mapping[str, Any]) -> Iterator[p.Problem | None]:
    torch = document["torch"]
    yield p.too_many_threads(torch["threads"], document["cpus"])
    if torch["threads"] is not None:  # a torch that does not import is a problem of its own
        yield p.unused_gpu(
            driver=document["nvidia_driver"], build=torch["cuda"], found=bool(torch["devices"])
        )
