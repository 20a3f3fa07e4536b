"""Peak memory of a model, in a process of its own.

What a process has once held it does not always give back, and several models in one process cannot
be told apart; so each gets a fresh one, which loads it and runs the largest cell once.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from normsurgery.errors import ResourceError

_PACKAGE_ROOT = Path(__file__).parents[2]


def peak_resident_bytes() -> int:
    """The largest resident size of this process since its program started.

    Not ru_maxrss where there is a choice: Linux hands a new program the peak of the process that
    started it.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_a_fresh_process(request: dict[str, Any]) -> dict[str, Any]:
    """`measure_here(request)` in a new Python: {"before_load", "loaded", "peak", "cuda_peak"}.

    In bytes; `cuda_peak` is None on other devices. ResourceError where the process dies.
    """
    paths = [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "normsurgery.bench.memory", json.dumps(request)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ResourceError(
            f"the process that measures memory ended with {done.returncode}: {last}",
            "--no-memory leaves that measurement out",
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_here(request: dict[str, Any]) -> dict[str, int | None]:
    """Load the model of `request` and run its cell once, in this process."""
    directory = Path(request["directory"])
    import torch

    from normsurgery.bench.subject import Cell, Subject
    from normsurgery.verify.load import load_model
    from normsurgery.verify.sources import ModelSource, class_of, dtype_named

    if request["threads"]:
        torch.set_num_threads(request["threads"])
    device = torch.device(request["device"])
    source = ModelSource(
        directory,
        trust_remote_code=request["trust_remote_code"],
        allow_pickle=request["allow_pickle"],
    )
    class_of(source)  # its imports are no memory of the model
    dtype, before = dtype_named(request["dtype"]), peak_resident_bytes()
    with (
        tempfile.TemporaryDirectory(prefix="normsurgery-bench-") as scratch,
        load_model(source, dtype=dtype, device=device, scratch=Path(scratch)) as loaded,
    ):
        after_load = peak_resident_bytes()
        subject = Subject(
            directory.name, loaded.model, dtype, device, directory,
            seed=request["seed"], data=Path(request["data"]) if request["data"] else None,
            trust_remote_code=request["trust_remote_code"],
        )  # fmt: skip
        subject.prepare()
        subject.runner(Cell(**request["cell"]), time.perf_counter)()
        return {
            "before_load": before,
            "loaded": after_load,
            "peak": peak_resident_bytes(),
            "cuda_peak": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure_here(json.loads(sys.argv[1]))) + "\n")
