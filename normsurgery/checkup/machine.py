"""Processors, memory, disks and devices: read from the system, with None where it does not say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_NVIDIA = Path("/proc/driver/nvidia/version")
_SECRET = ("TOKEN", "SECRET", "PASSWORD", "KEY")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHOWN = ("HF_", "HUGGING_FACE_", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
_SET_BY_US = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_VERBOSITY")  # the command line, for quiet


def cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> dict[str, int | None]:
    """Bytes of main memory, in all and free, within the limit of a container."""
    total, free = _system_memory(meminfo)
    limit, used = (_number(cgroup / name) for name in ("memory.max", "memory.current"))
    if limit is not None and (total is None or limit < total):
        total = limit
        room = limit if used is None else max(0, limit - used)
        free = room if free is None else min(free, room)
    return {"bytes": total, "free": free}


def _system_memory(meminfo: Path) -> tuple[int | None, int | None]:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if ":" in line}
        return kibibytes["MemTotal"] * 1024, kibibytes["MemAvailable"] * 1024
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    except (OSError, ValueError):
        return None, None


def _number(path: Path) -> int | None:
    """What a file of the control group holds; "max" is no limit."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def disk(what: str, path: Path) -> dict[str, Any]:
    """Free bytes where `path` is or will be, and whether it can be written to (or made)."""
    there = nearest_existing(path)
    try:
        free: int | None = shutil.disk_usage(there).free
    except OSError:
        free = None
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return {"what": what, "path": str(path), "free": free, "writable": writable}


def nearest_existing(path: Path) -> Path:
    """The path, or the first of its parents that exists."""
    path = path.expanduser().absolute()
    return next((one for one in (path, *path.parents) if one.exists()), path)


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps models, as its own rules have it; it need not be installed."""
    named = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    return Path(named).expanduser() if named else hub_home(environment) / "hub"


def hub_home(environment: Mapping[str, str]) -> Path:
    """HF_HOME, or its default."""
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(environment.get("HF_HOME") or f"{cache}/huggingface").expanduser()


def has_token(environment: Mapping[str, str]) -> bool:
    """Whether there is a token for the Hub, in a variable or in the file of `hf auth login`."""
    if any(environment.get(name, "").strip() for name in _TOKENS):
        return True
    path = Path(environment.get("HF_TOKEN_PATH") or hub_home(environment) / "token").expanduser()
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that matter here. What may be a secret is only said to be set."""
    return {
        name: _shown(name, value)
        for name, value in sorted(environment.items())
        if name.startswith(_SHOWN) and name not in _SET_BY_US
    }


def _shown(name: str, value: str) -> str:
    if any(word in name for word in _SECRET) and name != "HF_TOKEN_PATH":
        return "set" if value else "empty"
    if "://" not in value:
        return value
    try:
        address = urlsplit(value)
    except ValueError:
        return "set"
    # user:password@host and ?token=… stay out of a report that people paste into issues
    return urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2], query=""))


def nvidia_driver() -> bool:
    """Whether the machine has NVIDIA's kernel driver or its tool."""
    return _NVIDIA.exists() or shutil.which("nvidia-smi") is not None


def devices() -> list[dict[str, Any]]:
    """What torch can compute on beside the CPU, with bytes of memory, in all and free."""
    import torch

    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        found.append({"device": f"cuda:{number}", "name": name, "bytes": total, "free": free})
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = total - torch.mps.driver_allocated_memory()
        found.append({"device": "mps", "name": "Apple GPU", "bytes": total, "free": free})
    return found


def torch_document() -> dict[str, Any]:
    """torch's build, threads and devices; what fails is left out, with the reason in `error`."""
    document: dict[str, Any] = {
        "cuda": None, "mps": False, "threads": None, "devices": [], "error": None,
    }  # fmt: skip
    try:
        import torch

        document["cuda"] = torch.version.hip or torch.version.cuda
        document["mps"] = torch.backends.mps.is_built()
        document["threads"] = torch.get_num_threads()
        document["devices"] = devices()
    except Exception as error:  # a broken torch or driver raises anything
        document["error"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return document
