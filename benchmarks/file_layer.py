"""The file layer against `cp -r` on a generated 1.7 GB checkpoint: CPU seconds and memory.

    python benchmarks/file_layer.py [--dir DIR] [--rounds N]

CPU is user + system time of a child process, so the interpreter's start is in it and the kernel's
own write-back threads are not; each of our runs fsyncs every file, cp does not. Memory is the peak
of RssAnon in /proc/PID/status while the child works, less what it was after the imports; pages of
mapped files are not in it, as the system takes them back when it needs them. The source stays in
the page cache; rounds are interleaved; figures are medians. What is generated is deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from normsurgery.checkpoint.safetensors_file import encode_header

WIDTH, LAYERS, VOCABULARY, POSITIONS = 1600, 25, 50257, 1024  # GPT-2 XL, cut to 25 of 48 layers
SHARDS = 4
MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """One way to make the copy; `{source}` and `{destination}` in the command are filled in.

    cpu_target: allowed CPU seconds as a multiple of cp's. memory_target: MiB of anonymous memory.
    imports: a command that only imports what `command` does, for CPU seconds net of imports.
    says_ready: the command prints a line when its work begins; memory is then net of what it had.
    """

    name: str
    command: Sequence[str]
    cpu_target: float | None = None
    memory_target: float | None = None
    imports: Sequence[str] | None = None
    says_ready: bool = True
    cpu_seconds: list[float] = field(default_factory=list)
    wall_seconds: list[float] = field(default_factory=list)
    anonymous_mib: list[float] = field(default_factory=list)

    def filled(self, source: Path, destination: Path) -> list[str]:
        """The command for these directories."""
        return _filled(self.command, source, destination)


def _filled(command: Sequence[str], source: Path, destination: Path) -> list[str]:
    places = {"{source}": str(source), "{destination}": str(destination)}
    return [places.get(part, part) for part in command]


REWRITE = """
import sys
from pathlib import Path
from normsurgery.checkpoint import Staging, open_checkpoint, planned_bytes, write_weights
print("ready", flush=True)
source, destination, hashes = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "hashes"
checkpoint = open_checkpoint(source)
with Staging(destination, overwrite=False, source=source,
             needed_bytes=planned_bytes(checkpoint)) as staging:
    write_weights(checkpoint, staging.path, hashes=hashes)
    staging.publish()
"""

# 19 of 25 blocks, renamed; with "plan" only what comes before the first byte is written.
ARRANGE = """
import sys
from pathlib import Path
from normsurgery.anatomy.examine import examine
from normsurgery.anatomy.stacks import choose_stack, read_stacks
from normsurgery.checkpoint import Staging, open_checkpoint, planned_bytes, write_weights
from normsurgery.surgery.arrange import plan_arrangement
source, destination, writes = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "write"
checkpoint = open_checkpoint(source)
examination = examine(checkpoint)
stack = choose_stack(read_stacks(examination))
kept = [*range(8), *range(14, 25)]
result, _ = plan_arrangement(checkpoint, examination, stack, kept).operate(checkpoint)
print("ready", flush=True)
if writes:
    with Staging(destination, overwrite=False, source=source,
                 needed_bytes=planned_bytes(result)) as staging:
        write_weights(result, staging.path, hashes=False)
        staging.publish()
"""

IMPORTS = "import torch, transformers; transformers.GPT2LMHeadModel"


def rows() -> list[Row]:
    """The rows of the table; the first is what the others are compared with.

    `19 of 25 blocks` drops blocks and renames the others (no hashes), net of the plan, which does
    not grow with the size; cp copies all 25. `convert` is the whole command (hashes of source and
    result, proof on the twin, no NaN or Inf), but for the verification, which runs the model; net
    of importing torch and transformers.
    """
    ours = [sys.executable, "-c", REWRITE, "{source}", "{destination}"]
    arrange = [sys.executable, "-c", ARRANGE, "{source}", "{destination}"]
    convert = [sys.executable, "-m", "normsurgery", "convert", "{source}", "-o", "{destination}"]
    return [
        Row("cp -r", ["cp", "-r", "{source}", "{destination}"]),
        Row("rewrite, no hashes", [*ours, "no"], cpu_target=1.5, memory_target=64),
        Row("rewrite, sha256", [*ours, "hashes"], cpu_target=4.0, memory_target=64),
        Row(
            "19 of 25 blocks",
            [*arrange, "write"],
            cpu_target=1.5,
            memory_target=64,
            imports=[*arrange, "plan"],
        ),
        Row(
            "convert",
            [*convert, "--no-verify"],
            cpu_target=6.0,
            memory_target=1024,
            imports=[sys.executable, "-c", IMPORTS],
            says_ready=False,
        ),
    ]


def shapes() -> dict[str, tuple[int, ...]]:
    """GPT-2's tensors by name, in Conv1D layout [in, out]."""
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (VOCABULARY, WIDTH),
        "transformer.wpe.weight": (POSITIONS, WIDTH),
    }
    for layer in range(LAYERS):
        for name, shape in {
            "ln_1.weight": (WIDTH,), "ln_1.bias": (WIDTH,),
            "attn.c_attn.weight": (WIDTH, 3 * WIDTH), "attn.c_attn.bias": (3 * WIDTH,),
            "attn.c_proj.weight": (WIDTH, WIDTH), "attn.c_proj.bias": (WIDTH,),
            "ln_2.weight": (WIDTH,), "ln_2.bias": (WIDTH,),
            "mlp.c_fc.weight": (WIDTH, 4 * WIDTH), "mlp.c_fc.bias": (4 * WIDTH,),
            "mlp.c_proj.weight": (4 * WIDTH, WIDTH), "mlp.c_proj.bias": (WIDTH,),
        }.items():  # fmt: skip
            found[f"transformer.h.{layer}.{name}"] = shape
    found["transformer.ln_f.weight"] = found["transformer.ln_f.bias"] = (WIDTH,)
    return found


def generate(directory: Path) -> int:
    """Write the checkpoint: bfloat16, normal values, several shards. Returns its bytes."""
    import torch

    directory.mkdir()
    normal = torch.randn(4 * MIB, generator=torch.Generator().manual_seed(0)) * 0.02
    block = normal.to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    sizes = shapes()
    names = list(sizes)
    per_shard = -(-len(names) // SHARDS)
    weight_map: dict[str, str] = {}
    for number in range(SHARDS):
        held = names[number * per_shard : (number + 1) * per_shard]
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        lengths = [2 * _product(sizes[name]) for name in held]
        entries = [(n, "BF16", sizes[n], b) for n, b in zip(held, lengths, strict=True)]
        with (directory / file).open("wb") as out:
            out.write(encode_header({"format": "pt"}, entries))
            for length in lengths:
                for start in range(0, length, len(block)):
                    out.write(block[: min(len(block), length - start)])
        weight_map.update(dict.fromkeys(held, file))
    total = sum(2 * _product(shape) for shape in sizes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "dtype": "bfloat16",
        "n_embd": WIDTH, "n_head": 25, "n_layer": LAYERS, "n_positions": POSITIONS,
        "vocab_size": VOCABULARY, "bos_token_id": 50256, "eos_token_id": 50256,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return sum(path.stat().st_size for path in directory.iterdir())


def _product(shape: Sequence[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def cpu_seconds(command: Sequence[str]) -> tuple[float, float]:
    """User + system seconds, and wall seconds, of a command. Raises if it fails."""
    os.sync()  # no earlier round's write-back in this one
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - started


def anonymous_mib(command: Sequence[str], *, says_ready: bool) -> float:
    """Peak RssAnon of a command in MiB, less what it was at the line it prints when ready."""
    stdout = subprocess.PIPE if says_ready else subprocess.DEVNULL
    with subprocess.Popen(command, stdout=stdout, text=True) as child:
        if child.stdout is not None:
            child.stdout.readline()
        samples = list(_samples(child))
    if child.returncode or not samples:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}")
    return (max(samples) - (samples[0] if says_ready else 0)) / 1024


def _samples(child: subprocess.Popen[str]) -> Iterator[int]:
    status = Path(f"/proc/{child.pid}/status")
    while child.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                yield int(line.split()[1])
        time.sleep(0.002)


def measure(table: Sequence[Row], source: Path, destination: Path, rounds: int) -> None:
    """Fill the rows, a round of all before the next; the first round only warms the page cache."""
    for number in range(rounds + 1):
        turn = number % len(table)  # nobody is always the first after the disk was written to
        for row in [*table[turn:], *table[:turn]]:
            cpu, wall = cpu_seconds(row.filled(source, destination))
            shutil.rmtree(destination)
            if row.imports is not None:
                cpu -= cpu_seconds(_filled(row.imports, source, destination))[0]
            if number:
                row.cpu_seconds.append(cpu)
                row.wall_seconds.append(wall)
    for row in table:
        if row.memory_target is not None:
            command = row.filled(source, destination)
            row.anonymous_mib.append(anonymous_mib(command, says_ready=row.says_ready))
            shutil.rmtree(destination)


def report(table: Sequence[Row], size: int, rounds: int) -> None:
    """Print the table."""
    print(f"{machine()}; Python {platform.python_version()}; {versions()}")
    print(f"{size:,} bytes in {SHARDS} shards, medians of {rounds} interleaved rounds")
    header = ("", "CPU s", "× cp", "allowed", "wall s", "anon MiB", "allowed", "")
    print("{:<20}{:>8}{:>7}{:>9}{:>8}{:>10}{:>9}  {}".format(*header).rstrip())
    base = statistics.median(table[0].cpu_seconds)
    for row in table:
        cpu, wall = statistics.median(row.cpu_seconds), statistics.median(row.wall_seconds)
        memory = max(row.anonymous_mib, default=None)
        passed = row.cpu_target is None or cpu <= row.cpu_target * base
        if memory is not None and row.memory_target is not None:
            passed = passed and memory <= row.memory_target
        verdict = "" if row.cpu_target is None else "pass" if passed else "FAIL"
        print(
            f"{row.name:<20}{cpu:>8.2f}{cpu / base:>7.2f}{_cell(row.cpu_target):>9}{wall:>8.2f}"
            f"{_cell(memory):>10}{_cell(row.memory_target):>9}  {verdict}".rstrip()
        )


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def machine() -> str:
    """Processor, cores, kernel."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"


def versions() -> str:
    """Of what does the work."""
    import ssl

    cp = subprocess.run(["cp", "--version"], capture_output=True, text=True, check=True)
    return f"{ssl.OPENSSL_VERSION}; {cp.stdout.splitlines()[0]}"


def main() -> None:
    """Print the table; a target that is missed says FAIL in its row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--dir", type=Path, help="where 3.5 GB are free (default: a temp directory)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="normsurgery-bench-", dir=options.dir) as scratch:
        source, destination = Path(scratch, "source"), Path(scratch, "copy")
        size = generate(source)
        table = rows()
        measure(table, source, destination, options.rounds)
        report(table, size, options.rounds)


if __name__ == "__main__":
    main()
