"""Recipes of exact steps in one pass against the same steps one by one: bytes, CPU, memory.

    python benchmarks/fused_recipe.py [--dir DIR] [--rounds N] [--layers N] [--no-verify] [--only N]

A GPT-2 with random weights (bfloat16; with 12 layers about 190 MB) goes through three recipes, each
with and without `fuse`, in a child process each, interleaved. Figures are medians.

wrote: bytes of weight files written, the twins' left out. read: bytes of weight files that the
package read to compute, to copy and to hash. most: how often the most-read tensor of the source was
read, hashing apart. loaded: bytes of weight files of the models that were loaded to verify. CPU is
user + system time of the child, interpreter and imports included. Memory is the peak of RssAnon in
/proc/PID/status; pages of mapped files are not in it. What is generated is deleted.

Once, on a busy machine with two cores (one round, 12 layers, 184 MB, the third recipe): in one pass
1.15 times the source was written, 3.00 read, 3.15 loaded, in 36 CPU seconds; step by step 3.28,
7.23, 10.62 and 102. Without verification the CPU seconds do not differ (9.3 and 9.5).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml

from normsurgery import run
from normsurgery.checkpoint import files, open_checkpoint, sink, tensor, writer
from normsurgery.checkpoint import mapped as memory
from normsurgery.checkpoint.files import FileRange
from normsurgery.report.numbers import figure

WIDTH, VOCABULARY = 768, 8192
FOLD = {"surgery": "fold", "what": ["norm"], "untie": True}
BIAS = {"surgery": "fold", "what": ["norm", "value-bias"], "untie": True}
CONVERT = {"surgery": "convert"}
RECIPES: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "convert, arrange": lambda n: [CONVERT, _longer(n)],
    "fold norm, convert": lambda n: [FOLD, CONVERT],
    "fold norm and value-bias, convert, arrange": lambda n: [BIAS, CONVERT, _longer(n)],
}
_MS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description="exact steps in one pass and one by one")
    parser.add_argument("--dir", type=Path, help="where the checkpoints go; default: TMPDIR")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--no-verify", action="store_true", help="leave the loaded models out")
    parser.add_argument("--only", type=int, choices=range(len(RECIPES)), help="one of the recipes")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        recipe, fuse = arguments.child
        print(json.dumps(measured(Path(recipe), fuse=fuse == "fuse")))
        return
    with tempfile.TemporaryDirectory(prefix="fused-recipe-", dir=arguments.dir) as scratch:
        report(Path(scratch), arguments)


def report(work: Path, arguments: argparse.Namespace) -> None:
    """Run every recipe both ways, and print a line for each."""
    source = work / "source"
    build(source, arguments.layers)
    size = (source / "model.safetensors").stat().st_size
    print(f"GPT-2, {arguments.layers} layers, {size / 1e6:.0f} MB; multiples of that, CPU seconds")
    print(f"{'recipe':45} {'':6} wrote  read  most  loaded   CPU s   wall s  RssAnon MB")
    for place, (name, steps) in enumerate(RECIPES.items()):
        if arguments.only not in (None, place):
            continue
        found: dict[str, list[dict[str, Any]]] = {"fuse": [], "each": []}
        for number in range(arguments.rounds):
            for how in ("fuse", "each") if number % 2 else ("each", "fuse"):
                recipe = work / "recipe.yaml"
                values = {
                    "source": str(source), "output": str(work / "out"), "overwrite": True,
                    "device": "cpu", "steps": steps(arguments.layers),
                    "verify": not arguments.no_verify,
                }  # fmt: skip
                recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
                found[how].append(in_child(recipe, how))
        for how, rows in found.items():
            print(line(name, how, rows, size), flush=True)


def build(directory: Path, layers: int) -> None:
    """A GPT-2 whose every parameter is random, gains and biases included."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers, n_embd=WIDTH, n_head=12, vocab_size=VOCABULARY, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    model.to(torch.bfloat16).save_pretrained(directory)


def in_child(recipe: Path, how: str) -> dict[str, Any]:
    """The figures of one run in a process of its own, with the memory that it took."""
    line = [sys.executable, __file__, "--child", str(recipe), how]
    started = time.monotonic()
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as child:
        peak = 0
        while child.poll() is None:
            peak = max(peak, _anonymous(child.pid))
            time.sleep(_MS)
        assert child.stdout is not None
        said = child.stdout.read()
    if child.returncode:
        sys.exit(f"{recipe} ({how}) failed")
    seconds = time.monotonic() - started
    return {**json.loads(said.splitlines()[-1]), "wall": seconds, "memory": peak}


def measured(recipe: Path, *, fuse: bool) -> dict[str, Any]:
    """Run a recipe in this process and count the bytes of weight files under its directory."""
    torch.set_num_threads(1)
    counts = Counter[str]()
    reads = Counter[tuple[int, int]]()
    with _counted(recipe.parent, counts, reads):
        document = run(recipe, fuse=fuse).to_dict()
    assert document["verification"]["verdict"] in ("pass", "skipped")
    used = resource.getrusage(resource.RUSAGE_SELF)
    source = open_checkpoint(yaml.safe_load(recipe.read_text())["source"])
    runs = [one.range for one in source.values() if one.range]
    bytes_of = {run: sum(n for at, n in _within(run, reads)) for run in runs}
    return {
        **counts,
        "most": max(count / run.length for run, count in bytes_of.items() if run.length),
        "cpu": used.ru_utime + used.ru_stime,
    }


def _within(run: FileRange, reads: Counter[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Reads of a tensor: offset, and bytes in all."""
    for (offset, length), times in reads.items():
        low, high = max(offset, run.offset), min(offset + length, run.offset + run.length)
        if low < high:
            yield low, (high - low) * times


class _counted:
    """While open, reads and writes of weight files in a directory are added up."""

    def __init__(self, work: Path, counts: Counter[str], reads: Counter[tuple[int, int]]) -> None:
        self.work, self.counts, self.reads = work.resolve(), counts, reads
        self.patches: list[Any] = []

    def __enter__(self) -> None:
        from transformers import PreTrainedModel

        read, mapped, hashed = files.read_into, memory.mapped_bytes, writer.hash_files
        count, load = sink.Sink._count, PreTrainedModel.from_pretrained.__func__
        opened = sink.Sink.__init__

        def reading(run: FileRange, buffer: bytearray) -> Any:
            self._read(run)
            return read(run, buffer)

        def mapping(run: FileRange, item: int) -> Any:
            self._read(run)
            return mapped(run, item)

        def hashing(paths: Any, progress: Any = None) -> Any:
            self.counts["read"] += sum(Path(path).stat().st_size for path in paths)
            return hashed(paths, progress)

        def opening(this: Any, path: Path, name: str, **more: Any) -> None:
            this.counted = self._ours(path)
            opened(this, path, name, **more)

        def counting(this: Any, number: int) -> None:
            self.counts["wrote"] += number if this.counted else 0
            count(this, number)

        def loading(cls: type, directory: Any, *given: Any, **more: Any) -> Any:
            weights = Path(directory).glob("*.safetensors")
            self.counts["loaded"] += sum(f.stat().st_size for f in weights if self._ours(f))
            return load(cls, directory, *given, **more)

        self.patches = [
            patch.object(tensor, "read_into", reading), patch.object(sink, "read_into", reading),
            patch.object(tensor, "mapped_bytes", mapping),
            patch("normsurgery.api.writing.hash_files", hashing),
            patch.object(sink.Sink, "__init__", opening),
            patch.object(sink.Sink, "_count", counting),
            patch.object(PreTrainedModel, "from_pretrained", classmethod(loading)),
        ]  # fmt: skip
        for one in self.patches:
            one.start()

    def __exit__(self, *_: object) -> None:
        for one in self.patches:
            one.stop()

    def _ours(self, path: Path) -> bool:
        return path.suffix == ".safetensors" and path.resolve().is_relative_to(self.work)

    def _read(self, run: FileRange) -> None:
        if self._ours(run.path):
            self.counts["read"] += run.length
            if run.path.parent.name == "source":
                self.reads[run.offset, run.length] += 1


def _longer(layers: int) -> dict[str, Any]:
    return {"surgery": "arrange", "blocks": f"0-{layers // 2 - 1},zero,{layers // 2}-{layers - 1}"}


def _anonymous(process: int) -> int:
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = [row for row in text.splitlines() if row.startswith("RssAnon:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def line(name: str, how: str, rows: list[dict[str, Any]], size: int) -> str:
    """One row of the table: medians, bytes as multiples of the source."""

    def median(key: str) -> float:
        return float(statistics.median(row.get(key, 0) for row in rows))

    bytes_ = "  ".join(f"{median(key) / size:5.2f}" for key in ("wrote", "read"))
    return (
        f"{name if how == 'fuse' else '':45} {how:6} {bytes_}  {median('most'):4.1f}  "
        f"{median('loaded') / size:6.2f}  {median('cpu'):6.2f}  {median('wall'):7.2f}  "
        f"{figure(round(median('memory') / 1e6))}"
    )


if __name__ == "__main__":
    main()
