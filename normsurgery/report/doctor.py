"""The report of `doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from normsurgery.report.numbers import duration, file_size, memory_size
from normsurgery.report.tables import facts, plain_table, section, title


def doctor_report(document: Mapping[str, Any]) -> list[RenderableType]:
    """What there is, then what is wrong with it."""
    parts: list[RenderableType] = [
        title("doctor", f"normsurgery {document['version']}"),
        facts(list(_machine(document))),
    ]
    parts += section("Libraries", _libraries(document["libraries"]))
    if document["environment"]:
        parts += section("Environment", facts(list(document["environment"].items())))
    problems = [(one["what"], one["hint"]) for one in document["problems"]]
    if problems:
        parts += section("Problems", plain_table(["what is so", "what to do"], problems))
    else:
        parts += [Text(), Text("no known problem", "bold green")]
    return [*parts, Text(), Text(duration(document["seconds"]), "dim")]


def _machine(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    torch, memory = document["torch"], document["memory"]
    yield "python", f"{document['python']} on {document['platform']}"
    yield "CPUs", f"{document['cpus']}, torch threads: {_or_unknown(torch['threads'])}"
    yield "memory", f"{memory_size(memory['free'])} of {memory_size(memory['bytes'])} free"
    yield "torch", _build(torch)
    for one in torch["devices"]:
        room = f"{memory_size(one['free'])} of {memory_size(one['bytes'])} free"
        yield one["device"], f"{one['name']}, {room}"
    for disk in document["disks"]:
        free = "unknown" if disk["free"] is None else f"{file_size(disk['free'])} free"
        yield disk["what"], f"{free}, {disk['path']}"
    yield "Hub token", "there is one" if document["token"] else "none"


def _build(torch: Mapping[str, Any]) -> str:
    if torch["error"]:
        return str(torch["error"])
    builds = [f"CUDA {torch['cuda']}"] if torch["cuda"] else []
    builds += ["MPS"] if torch["mps"] else []
    devices = "" if torch["devices"] else ", no device but the CPU"
    return f"built for {' and '.join(['CPU', *builds])}{devices}"


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else str(value)


def _libraries(libraries: list[dict[str, Any]]) -> RenderableType:
    rows = [
        [
            one["name"],
            one["version"] or "not installed",
            one["extra"] or "",
            "does not import" if one["error"] else "" if one["version"] else one["install"],
        ]
        for one in libraries
    ]
    return plain_table(["library", "version", "extra", "remark"], rows, whole=(0, 1, 2))
