"""`doctor`: versions, devices, disk, memory, variables, and known problems."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from normsurgery.api.result import Result
from normsurgery.checkup import machine
from normsurgery.checkup.examine import problems
from normsurgery.checkup.libraries import LIBRARIES, TORCHVISION, library_document
from normsurgery.version import VERSION


class DoctorResult(Result):
    """The state of the installation, as a document."""


def doctor() -> DoctorResult:
    """Look at the installation and the machine. Reads no model and asks no server.

    A library that is broken is a problem in the document; nothing is raised for it.
    """
    started = time.monotonic()
    document: dict[str, Any] = {
        "command": "doctor",
        "version": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": [library_document(one) for one in (*LIBRARIES, TORCHVISION)],
        "torch": machine.torch_document(),
        "cpus": machine.cpus(),
        "memory": machine.memory(),
        "disks": [
            machine.disk("Hub cache", machine.hub_cache(os.environ)),
            machine.disk("working directory", Path.cwd()),
        ],
        "environment": machine.variables(os.environ),
        "token": machine.has_token(os.environ),
        "nvidia_driver": machine.nvidia_driver(),
    }
    document["problems"] = [one._asdict() for one in problems(document)]
    document["seconds"] = round(time.monotonic() - started, 3)
    return DoctorResult(document)
