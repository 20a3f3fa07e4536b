"""How long `normsurgery --help` takes, and how much memory: wall time, not asserted in any test.

    python benchmarks/startup.py [--rounds N]

Each figure is of a fresh interpreter with warm caches: the best wall time of N rounds, and the
largest resident size of any. Targets: half a second, 60 MiB.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time

COMMANDS = (["--help"], ["convert", "--help"], ["--version"])


def measure(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of one run."""
    program = [sys.executable, "-m", "normsurgery", *arguments]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    started = time.perf_counter()
    child = os.posix_spawn(
        sys.executable, program, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, nowhere, 1)]
    )
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    os.close(nowhere)
    if status:
        raise SystemExit(f"{' '.join(program)} ended with status {status}")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    print(f"{platform.platform()}, Python {platform.python_version()}, best of {rounds}")
    print(f"{'command':28}{'wall':>9}{'peak':>11}")
    for arguments in COMMANDS:
        measure(arguments)  # fills the caches
        runs = [measure(arguments) for _ in range(rounds)]
        wall, peak = min(run[0] for run in runs), max(run[1] for run in runs)
        print(f"{'normsurgery ' + ' '.join(arguments):28}{wall:7.2f} s{peak:7.0f} MiB")


if __name__ == "__main__":
    main()
